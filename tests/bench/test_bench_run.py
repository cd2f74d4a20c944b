"""Benchmarks of small clips from end to end: order of qualities, reuse, lost clips, reference files, comparison and page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_clips import RATE_HZ, sound_of, write_clip, write_set, write_wav

from avpref.bench.bench_export import export_set
from avpref.bench.bench_run import BenchOutcome, run_benchmark
from avpref.bench.features.exported_features import read_features
from avpref.bench.measures.intervals import BootstrapPlan
from avpref.bench.results.bench_page import render_page
from avpref.bench.results.comparison import compare_results
from avpref.bench.results.loaded_results import load_result
from avpref.config.schema import BenchJobSettings
from avpref.errors import ConfigError, InputError
from avpref.flows.bench.bench_job_sources import BenchChoice, bench_job

COLUMNS = ("FD-VGG", "KL-PANNS-softmax")
Run = Callable[..., BenchOutcome]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_set(root / "real", 5)
    write_set(root / "good", 5, 0.05)
    write_set(root / "bad", 5, 0.9)
    rows = "".join(f'sample_{n:04d}.mp4,square {n},{n % 5},"0,{n % 3 + 1}"\n' for n in range(5))
    (root / "prompts.csv").write_text(f"path,text,cat0_ind,cat2_ind\n{rows}", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("bench")

    def run(name: str, own: Path | None = None, **options: Any) -> BenchOutcome:
        settings = {
            "reference": clips / "real",
            "prompts": clips / "prompts.csv",
            "columns": COLUMNS,
            "scorers": ("signal",),
        }
        choice = BenchChoice("av-benchmark", clips / name, **{**settings, **options}, is_tiny=True)
        return run_benchmark(bench_job(choice, BenchJobSettings()), own or root)

    return run


def test_better_clips_have_better_numbers_and_the_second_run_computes_nothing(run: Run, tmp_path: Path) -> None:
    good, bad = run("good", tmp_path), run("bad", tmp_path)
    own, other = good.document["columns"], bad.document["columns"]
    for name in ("FD-VGG", "KL-PANNS-softmax"):
        assert own[name]["value"] < other[name]["value"] and own[name]["low"] <= own[name]["value"] <= own[name]["high"]
    for name in ("visual_quality", "audio_quality"):
        assert own[name]["value"] > other[name]["value"] and own[name]["higher_is_better"]
    assert good.counts.computed == 5 * 3 + 5 * 2 and bad.counts == type(bad.counts)(5 * 3, 5 * 2)
    again = run("good", tmp_path)
    assert (again.counts.computed, again.counts.reused) == (0, 25)
    assert again.folder == good.folder and again.document == good.document
    assert not good.document["is_meaningful"] and good.num_lost == 0


def test_another_column_computes_its_network_alone(run: Run, tmp_path: Path) -> None:
    run("good", tmp_path)
    more = run("good", tmp_path, columns=(*COLUMNS, "FD-PASST"), scorers=("signal",))
    assert more.counts.computed == 10 and more.document["columns"]["FD-PASST"]["value"] is not None
    longer = run("good", tmp_path, changes=("cut_s=2",))
    assert longer.counts.computed == 20, "both networks hear another cut, the scorer does not"


def test_results_per_category_and_sample_are_written(run: Run) -> None:
    outcome = run("good")
    categories = outcome.document["categories"]
    assert [row["num_clips"] for row in categories if row["aspect"] == "Event Scenario"] == [1, 1, 1, 1, 1]
    ambient = next(row for row in categories if row["category"] == "Ambient sounds")
    assert ambient["num_clips"] == 5 and ambient["columns"]["audio_quality"]["value"] is not None
    assert categories[0]["columns"]["FD-VGG"]["value"] is None
    with open(outcome.folder / "samples.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["key"] for row in rows] == [f"sample_{n:04d}" for n in range(5)] and rows[0]["text"] == "square 0"
    mean = np.mean([float(row["audio_quality"]) for row in rows])
    assert mean == pytest.approx(outcome.document["columns"]["audio_quality"]["value"])
    document = json.loads((outcome.folder / "result.json").read_text())
    assert {row["setting"]: row["value"] for row in document["settings"]}["kl_rule"] == "av_benchmark"
    assert document["parts"][0]["fingerprint"] and document["environment"]["numpy"] == np.__version__


def test_lost_clips_are_rows_and_lower_the_counts(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    write_set(folder, 5, 0.05)
    (folder / "sample_0001.mp4").unlink()
    whole = (folder / "sample_0002.mp4").read_bytes()
    (folder / "sample_0002.mp4").write_bytes(whole[: len(whole) // 2])
    write_wav(folder / "sample_0003.wav", np.zeros(4 * RATE_HZ, np.float32))
    write_clip(folder / "sample_0004.mp4", 4, 0.6)
    outcome = _run_on(folder, clips, tmp_path)
    reasons = {row["key"]: row["reason"] for row in outcome.document["lost"]["generated"]}
    assert set(reasons) == {"sample_0001", "sample_0002"}
    assert reasons["sample_0001"].startswith("missing") and reasons["sample_0002"].startswith("unreadable")
    fd = outcome.document["columns"]["FD-VGG"]
    assert (fd["value"], fd["num_lost"]) == (None, 2), "pieces of one clip are several rows, and still one clip"
    assert fd["reason"] == "1 generated and 5 reference clips: a distance needs 2 of each"
    assert any("silent" in warning for warning in fd["warnings"]) and any("shorter than" in w for w in fd["warnings"])
    with open(outcome.folder / "samples.csv", encoding="utf-8") as stream:
        rows = {row["key"]: row for row in csv.DictReader(stream)}
    assert "silent" in rows["sample_0003"]["reason"] and rows["sample_0003"]["audio_quality"] == ""
    assert rows["sample_0001"]["reason"].startswith("missing")


def _run_on(folder: Path, clips: Path, tmp_path: Path) -> BenchOutcome:
    choice = BenchChoice(
        "av-benchmark",
        folder,
        clips / "real",
        clips / "prompts.csv",
        columns=("FD-VGG",),
        scorers=("signal",),
        is_tiny=True,
    )
    return run_benchmark(bench_job(choice, BenchJobSettings()), tmp_path / "bench")


def test_sound_beside_the_video_replaces_its_own(clips: Path, tmp_path: Path) -> None:
    """The sounds of the reference beside noisy videos: features of sound become those of the wav files."""
    folder = tmp_path / "beside"
    write_set(folder, 5, 0.9)
    for number in range(5):
        write_wav(folder / f"sample_{number:04d}.wav", sound_of(number))
    inside = _run_on(clips / "bad", clips, tmp_path).document["columns"]["FD-VGG"]["value"]
    beside = _run_on(folder, clips, tmp_path).document["columns"]["FD-VGG"]["value"]
    assert beside < 0.2 * inside


def test_reference_features_travel_as_a_file(run: Run, clips: Path, tmp_path: Path) -> None:
    choice = BenchChoice("av-benchmark", clips / "real", prompts=clips / "prompts.csv", columns=COLUMNS, is_tiny=True)
    path = tmp_path / "real.safetensors"
    counts, lost = export_set(bench_job(choice, BenchJobSettings()), tmp_path / "bench", path)
    assert counts == {"vggish.features": 5, "panns.logits": 5} and not lost
    of_clips, of_file = run("good"), run("good", reference=path)
    for name in COLUMNS:
        one, two = (outcome.document["columns"][name] for outcome in (of_clips, of_file))
        assert (
            one["value"] == pytest.approx(two["value"], rel=1e-9) and one["num_reference"] == two["num_reference"] == 5
        )
    with pytest.raises(InputError, match=r"vggish with cut_s 8\.0") as caught:
        run("good", reference=path, changes=("cut_s=4",))
    assert "cut_s 4.0" in caught.value.expected
    with pytest.raises(InputError, match="features of panns, vggish"):
        run("good", reference=path, columns=("FD-PASST",))


def test_broken_feature_files_are_refused(run: Run, clips: Path, tmp_path: Path) -> None:
    choice = BenchChoice("av-benchmark", clips / "real", columns=("FD-VGG",), is_tiny=True)
    path = tmp_path / "real.safetensors"
    export_set(bench_job(choice, BenchJobSettings()), tmp_path / "bench", path)
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    with safe_open(path, framework="np") as stream:
        metadata = stream.metadata()
    tensors["vggish.features"][1, 5] = np.inf
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(InputError, match=r"vggish\.features of 1 clips is NaN or infinite, first sample_0000"):
        read_features(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"real\.safetensors"):
        read_features(path)


def test_differences_are_paired_and_judged(run: Run) -> None:
    good, bad = run("good"), run("bad")
    results = [load_result(good.folder), load_result(bad.folder)]
    document = compare_results(results, BootstrapPlan())
    assert [model["name"] for model in document["models"]] == ["good", "bad"]
    by_column = {row["column"]: row for row in document["differences"]}
    for name in ("visual_quality", "audio_quality", "KL-PANNS-softmax", "FD-VGG"):
        row = by_column[name]
        assert row["num_pairs"] == 5 and row["low"] <= row["value"] <= row["high"]
    assert by_column["visual_quality"]["verdict"] == "worse" and by_column["visual_quality"]["win_rate"] == 0.0
    exact = bad.document["columns"]["FD-VGG"]["value"] - good.document["columns"]["FD-VGG"]["value"]
    assert by_column["FD-VGG"]["value"] == pytest.approx(exact, rel=1e-9)
    same = compare_results([results[0], results[0]], BootstrapPlan())
    assert all(row["value"] == 0 and row["verdict"] == "undecided" for row in same["differences"])


def test_what_cannot_be_compared_says_why(run: Run) -> None:
    good, other = run("good"), run("bad", changes=("cut_s=2",))
    rows = compare_results([load_result(good.folder), load_result(other.folder)], BootstrapPlan())["differences"]
    reasons = {row["column"]: row["reason"] for row in rows}
    assert reasons["FD-VGG"] == "vggish has other weights or settings" and reasons["visual_quality"] == ""
    with pytest.raises(ConfigError, match="one benchmark"):
        compare_results([load_result(good.folder)], BootstrapPlan())
    with pytest.raises(InputError, match=r"result\.json"):
        load_result(good.folder.parent)


def test_the_page_stands_alone_and_plays_clips(run: Run) -> None:
    result = load_result(run("bad").folder)
    page = render_page(result).decode()
    assert page == render_page(result).decode()
    assert 3 <= page.count('src="data:video/mp4;base64,') == page.count("<video controls") <= 5
    assert not any(text in page for text in ('src="http', 'href="http', "url(http", "<script", "<link"))
    assert "Random weights" in page and "FD-VGG ↓" in page and "square 0" in page and "Ambient sounds" in page


def test_unknown_columns_and_scorers_are_named(run: Run, clips: Path) -> None:
    with pytest.raises(ConfigError, match="--columns fad"):
        run("good", columns=("fad",))
    with pytest.raises(ConfigError, match="no scorer sinal"):
        run("good", scorers=("sinal",))
