"""``avpref bench``: exit codes, one document per command, files where they are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench_clips import write_set

from avpref.cli.main import main


def command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(str(caught.value.code)), capsys.readouterr().out


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_set(root / "one", 3, 0.1)
    write_set(root / "two", 3, 0.7)
    return root


def test_run_compare_and_report(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for name in ("one", "two"):
        code, out = command(
            capsys, "bench", "run", "--clips", clips / name, "--preset", "signals", "--bench", tmp_path / "b", "--json"
        )
        document = json.loads(out)
        assert code == 0 and document["results"] == {"computed": 3, "reused": 0} and document["num_clips"] == 3
        folders.append(document["bench_dir"])
    code, out = command(
        capsys, "bench", "run", "--clips", clips / "one", "--preset", "signals", "--bench", tmp_path / "b"
    )
    assert code == 0 and "visual_quality" in out and "as published" in out
    code, out = command(capsys, "bench", "compare", *folders, "--plot", tmp_path / "plot.png", "--json")
    document = json.loads(out)
    assert code == 0 and (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert {row["model"] for row in document["differences"]} == {"two"}
    code, out = command(capsys, "bench", "compare", *folders)
    assert code == 0 and "verdict" in out
    code, out = command(capsys, "bench", "report", folders[0], "--out", tmp_path / "page.html", "--json")
    assert code == 0 and (tmp_path / "page.html").stat().st_size == json.loads(out)["num_bytes"]


def test_lost_clips_are_a_partial_result(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = tmp_path / "prompts.csv"
    csv.write_text("text\n" + "".join(f"prompt {n}\n" for n in range(5)))
    words = (
        "bench",
        "run",
        "--clips",
        clips / "one",
        "--prompts",
        csv,
        "--preset",
        "signals",
        "--bench",
        tmp_path / "b",
    )
    code, out = command(capsys, *words)
    assert code == 5 and "missing: no clip named sample_0004" in out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--preset", "none"), 2),
        (("--preset", "signals", "--with", "x=1"), 2),
        (("--preset", "signals", "--columns", "fad"), 2),
        (("--preset", "signals", "--prompts", "absent.csv"), 4),
    ],
)
def test_wrong_options_have_their_exit_codes(
    words: tuple[str, ...], code: int, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(capsys, "bench", "run", "--clips", clips / "one", "--bench", tmp_path, *words)[0] == code


def test_the_published_cache_becomes_a_file_of_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, out_file = tmp_path / "cache.pt", tmp_path / "cache.safetensors"
    torch.save({"video": torch.randn(4, 400), "audio": torch.randn(4, 1024)}, cache)
    words = ("bench", "features", "--published-cache", cache, "--with", "fvd_frames=24", "--out", out_file, "--json")
    code, out = command(capsys, *words)
    assert code == 0 and json.loads(out)["arrays"] == [
        {"array": "i3d.logits", "rows": 4},
        {"array": "audioclip.features", "rows": 4},
    ]
    from avpref.bench.features.exported_features import read_features

    content = read_features(out_file)
    assert content.records["i3d"].settings == {"frames": 24, "range": "published"}
    assert content.rows["i3d", "logits"].keys == ("sample_0000", "sample_0001", "sample_0002", "sample_0003")
    torch.save({"video": torch.randn(4, 400), "audio": torch.randn(3, 1024)}, cache)
    assert command(capsys, *words)[0] == 4
    assert command(capsys, "bench", "features", "--out", out_file)[0] == 2
    assert command(capsys, "bench", "features", "--clips", tmp_path, "--out", tmp_path / "x.bin")[0] == 2
