"""``avpref pool`` from the command line: one command for everything, one per stage, and views that need no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pool_clips import plain_video, scene, tune, write_video

from avpref.cli.main import main
from avpref.identity import file_sha256

ROOT = Path(__file__).parents[2]
PLAIN = ("executor={kind: in_process}", "measure.optional=[]", "measure.scorers=[frame_measures, sound_measures]")
FILTERS = "filter.filters=[{name: still, measure: static_share, max: 0.9}]"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def sets(*values: str) -> list[str]:
    return [word for value in (*PLAIN, *values) for word in ("--set", value)]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    plain_video(folder / "a.mp4", 1)
    write_video(folder / "still.mp4", scene(2, 1).repeat(75, 0), tune(2, 3.0))
    (folder / "a.txt").write_text("a pattern")
    return folder


def test_build_then_look_at_the_pool(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pools, config = str(tmp_path / "pools"), str(ROOT / "configs" / "pool.yaml")
    code = run("pool", "build", "--config", config, "--source", str(videos), "--pools", pools, *sets(FILTERS), "--json")
    document = json.loads(capsys.readouterr().out)
    assert code == 0 and [stage["stage"] for stage in document["stages"]] == [
        *("scan", "cut", "measure", "caption", "filter", "write")
    ]
    assert document["filters"] == [
        {"filter": "still", "removed": 1, "hours": pytest.approx(3 / 3600, rel=0.01), "alone": 1}
        | {"hours_alone": pytest.approx(3 / 3600, rel=0.01), "only": 1}
    ]
    assert run("pool", "funnel", "--pools", pools) == 0
    printed = capsys.readouterr().out
    assert "after still" in printed and "static_share" in printed
    assert run("pool", "show", "--pools", pools) == 0
    assert "loudness_lufs" in capsys.readouterr().out
    assert run("pool", "sample", "--pools", pools, "--filter", "still", "--json") == 0
    page = Path(json.loads(capsys.readouterr().out)["page"]).read_text(encoding="utf-8")
    assert "data:video/mp4;base64," in page and "still.mp4" in page and "a.mp4," not in page
    assert (tmp_path / "pools" / "pool" / "funnel.png").read_bytes().startswith(b"\x89PNG")
    assert run("pool", "show", "--pools", pools, "--clip", "k", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert {"codec_motion", "loudness_lufs"} <= {row["measure"] for row in shown["rows"]}
    kept = next(clip for clip in shown["clips"] if clip["is_kept"])
    assert Path(kept["uri"]).name == "a.mp4" and (tmp_path / "pools" / "pool" / kept["file"]).is_file()
    assert run("pool", "show", "--pools", pools, "--clip", "x") == 4


def test_a_prompt_of_a_run_leads_back_to_the_source_of_its_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the lineage of a prompt over the pool to the file, its hash and the range of its frames."""
    videos, runs = tmp_path / "videos", str(tmp_path / "runs")
    videos.mkdir()
    for number in range(4):
        plain_video(videos / f"{number}.mp4", 10 + number, 2.4)
    pools, config = str(tmp_path / "pools"), str(ROOT / "configs" / "pool.yaml")
    words = sets("filter.filters=[]", "write.text=a pattern")
    assert run("pool", "build", "--config", config, "--source", str(videos), "--pools", pools, *words) == 0
    tree = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text(encoding="utf-8"))
    tree["prompts"] = {"kind": "clips", "num_evaluation_clips": 1}
    (tmp_path / "clips.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    lists = tmp_path / "pools" / "pool" / "clips.csv"
    assert run("prompts", "import", str(lists), "--config", str(tmp_path / "clips.yaml"), "--runs", runs) == 0
    capsys.readouterr()
    assert run("prompts", "list", "--runs", runs, "--json") == 0
    prompt = json.loads(capsys.readouterr().out)["prompts"][0]["prompt_id"]
    assert run("lineage", "show", prompt, "--runs", runs, "--json") == 0
    (shown,) = json.loads(capsys.readouterr().out)["prompts"]
    origin = shown["pool"]
    source = Path(origin["uri"])
    assert source.parent == videos and origin["sha256"] == file_sha256(source) and origin["is_same_file"]
    assert (origin["pool"], origin["first_frame"], origin["end_frame"]) == ("pool", 0, 60)
    Path(shown["ground_truth_path"]).parents[1].joinpath("pool.json").unlink()
    assert run("lineage", "show", prompt, "--runs", runs, "--json") == 0
    assert "pool" not in json.loads(capsys.readouterr().out)["prompts"][0]


def test_stages_are_commands_and_say_which_one_is_missing(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(ROOT / "configs" / "pool.yaml"), "--pools", str(tmp_path / "pools"), *sets()]
    assert run("pool", "cut", *words) == 4
    assert "avpref pool scan" in capsys.readouterr().err
    assert run("pool", "scan", "--source", str(videos), "--source", str(videos / "none"), *words) == 5
    assert "1 could not be processed" in capsys.readouterr().out
    assert run("pool", "cut", *words) == 0
    assert run("pool", "measure", *words) == 0
    assert run("pool", "filter", *words, "--set", "filter.preset=javisbench") == 2
    assert "aesthetic_score" in capsys.readouterr().err


def test_a_pool_that_is_not_there_is_an_error_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pool", "show", "--pools", str(tmp_path)) == 4
    assert "avpref pool build" in capsys.readouterr().err
