"""Foreign pairs in a run: clips are checked and encoded again, the pairs are kept as listed, and training uses them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.domain import Origin, Split
from avpref.errors import ConfigError, InputError
from avpref.exchange.pair_export import PairExport, export_pairs
from avpref.flows.reproduce import reproduce
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.stages.generate import generate
from avpref.flows.stages.import_pairs import import_clips, import_plan, listed_pairs
from avpref.flows.stages.pair import pair
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.score import score
from avpref.flows.stages.sft import sft
from avpref.identity import bytes_sha256
from avpref.media.reading import read_clip
from avpref.media.writing import encode_clip
from avpref.storage.run_folder import RESULT_FILE, RunFolder, create

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"


@pytest.fixture(scope="module")
def exported(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "pairs"
    export_pairs(tiny_run, PairExport(out, layout="shards"))
    return out


def importing(runs: Path, source: Path, tiny: RunFolder, *overrides: str) -> Run:
    """The run that imports ``source`` with the network of the finished run."""
    section = {"kind": "pairs", "pairs": str(source), "held_out_share": 0.2}
    weights = {"kind": "weights", "network": str(Run.of(tiny).sft.checkpoint), "dtype": "float32"}
    values = [f"prompts={json.dumps(section)}", f"sft={json.dumps(weights)}", *overrides]
    return Run.of(create(runs, load_config(TINY, values, environment={}).settings))


def up_to(run: Run, *stages: Any) -> Run:
    for stage in stages:
        stage.fn(run)
    return run


def test_a_run_trains_on_the_pairs_of_another(tiny_run: RunFolder, exported: Path, tmp_path: Path) -> None:
    run = importing(tmp_path, exported, tiny_run)
    result = run_loop(run)
    before, pairs = tiny_run.tables.read(tables.PAIRS).to_pylist(), run.tables.read(tables.PAIRS).to_pylist()
    listed = run.tables.read(tables.IMPORTED).to_pylist()
    assert [row["foreign_id"] for row in listed] == [row["pair_id"] for row in before]
    trained = [row for row in listed if row["split"] == Split.TRAIN]
    assert 0 < len(trained) < len(listed) and len(pairs) == len(trained)
    assert {row["strategy"] for row in pairs} == {"imported"} == {result.pairs.strategy}
    assert {row["chosen_origin"] for row in pairs} == {str(Origin.IMPORTED)}
    clips = {row["candidate_id"]: row for row in run.tables.read(tables.CANDIDATES).to_pylist()}
    kept = {(clips[row["chosen"]]["sha256"], clips[row["rejected"]]["sha256"]) for row in pairs}
    assert kept == {(row["chosen_sha256"], row["rejected_sha256"]) for row in trained}, (
        "clips of the shape keep their bytes"
    )
    assert (run.training_job.output / "adapter" / "adapter_model.safetensors").exists()
    repeated = reproduce(run, 1.0, None, seed=0)
    assert repeated.is_same and repeated.clips > 0, "imported clips were not made, so they are not made again"
    again = run_loop(Run.of(run))
    assert not again.is_changed and (run.root / RESULT_FILE).exists()


def test_the_order_of_the_list_changes_nothing(tiny_run: RunFolder, tmp_path: Path) -> None:
    export_pairs(tiny_run, PairExport(tmp_path / "csv", format="csv"))
    with (tmp_path / "csv" / "pairs.csv").open(newline="") as stream:
        header, *lines = list(csv.reader(stream))
    sealed = []
    for name, ordered in (("one", lines), ("two", lines[::-1])):
        path = tmp_path / "csv" / f"{name}.csv"
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *ordered])
        run = up_to(importing(tmp_path / name, path, tiny_run), prompts, sft, generate, score, pair)
        rows = run.tables.read(tables.PAIRS).drop_columns("norm_id")  # a norm is named after its run
        sealed.append((rows.to_pylist(), run.tables.read(tables.SKIPPED).to_pylist()))
        assert len(run.tables.read(tables.PAIRS)) == len(listed_pairs(run).chosen) > 0
    assert sealed[0] == sealed[1]


def write_clip(path: Path, seconds: float, fps_hz: float = 12.0, size: tuple[int, int] = (64, 80)) -> None:
    generator = np.random.default_rng(len(path.name))
    frames = generator.integers(0, 256, (round(seconds * fps_hz), *size, 3), dtype=np.uint8)
    sound = generator.uniform(-0.3, 0.3, round(seconds * 22050)).astype(np.float32)
    path.write_bytes(encode_clip(frames, fps_hz, sound, 22050))


def test_clips_of_another_shape_are_encoded_again_and_bad_ones_quarantined(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, seconds in (("a", 2.5), ("bb", 2.1), ("ccc", 3.0), ("short", 0.5)):
        write_clip(folder / f"{name}.mp4", seconds)
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:3000])
    lines = [
        "a.mp4,bb.mp4,one",
        "ccc.mp4,a.mp4,one",
        "a.mp4,short.mp4,two",
        "ccc.mp4,broken.mp4,two",
        "bb.mp4,ccc.mp4,three",
    ]
    (folder / "pairs.csv").write_text("\n".join(["chosen,rejected,text", *lines]))
    run = importing(
        tmp_path / "runs", folder / "pairs.csv", tiny_run, "prompts.held_out_share=0", "run.max_quarantined_share=0.5"
    )
    up_to(run, prompts, sft, generate, score, pair)
    shape = run.settings.clip
    clips = run.tables.read(tables.CANDIDATES).to_pylist()
    assert {row["origin"] for row in clips} == {"imported"}
    for row in clips:
        data = (run.root / row["path"]).read_bytes()
        assert bytes_sha256(data) == row["sha256"]
        clip = read_clip(io.BytesIO(data))
        assert clip.frames is not None and clip.frames.shape == (shape.num_frames, shape.height_px, shape.width_px, 3)
        assert clip.sample_rate_hz == shape.sample_rate_hz
    lost = run.documents.quarantined()
    assert {row.stage for row in lost} == {"import"} and len(lost) == 2
    assert run.tables.num_rows(tables.PAIRS) == 3
    (skipped,) = run.tables.read(tables.SKIPPED).to_pylist()
    text = {prompt.prompt_id: prompt.text for prompt in run.prompts}
    assert text[skipped["prompt_id"]] == "two"


def test_a_clip_that_changes_after_it_was_listed_is_not_used(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a", "bb", "ccc"):
        write_clip(folder / f"{name}.mp4", 2.5)
    (folder / "pairs.csv").write_text("chosen,rejected,text\na.mp4,bb.mp4,one\nbb.mp4,ccc.mp4,one")
    run = importing(
        tmp_path / "runs", folder / "pairs.csv", tiny_run, "prompts.held_out_share=0", "run.max_quarantined_share=0.9"
    )
    up_to(run, prompts)
    write_clip(folder / "ccc.mp4", 2.75)
    up_to(run, import_clips)
    (lost,) = run.units(tables.CANDIDATES).quarantined(import_plan(run).units)
    assert "has changed since the pairs were listed" in lost.message


def test_a_dimension_that_no_metric_measures_drops_the_pair(tiny_run: RunFolder, tmp_path: Path) -> None:
    export_pairs(tiny_run, PairExport(tmp_path / "csv", format="csv"))
    path = tmp_path / "csv" / "pairs.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line.replace(",all,", ",smell,") for line in lines[1:3]), *lines[3:]]))
    run = importing(tmp_path / "runs", path, tiny_run, "prompts.held_out_share=0")
    up_to(run, prompts, sft, generate, score, pair)
    assert run.tables.num_rows(tables.PAIRS) == run.tables.num_rows(tables.IMPORTED) - 2
    path.write_text("\n".join([lines[0], *(line.replace(",all,", ",smell,") for line in lines[1:])]))
    run = importing(tmp_path / "others", path, tiny_run, "prompts.held_out_share=0")
    with pytest.raises(InputError, match="no prompt gave a pair"):
        up_to(run, prompts, sft, generate, score, pair)


def test_pairs_need_a_trained_network(tiny_run: RunFolder, exported: Path, tmp_path: Path) -> None:
    section = json.dumps({"kind": "pairs", "pairs": str(exported)})
    run = Run.of(create(tmp_path, load_config(TINY, [f"prompts={section}"], environment={}).settings))
    up_to(run, prompts)
    with pytest.raises(ConfigError, match=r"prompts\.kind pairs with sft\.kind train"):
        sft.fn(run)


def test_pairs_are_imported_in_one_shape(exported: Path) -> None:
    section = json.dumps({"kind": "pairs", "pairs": str(exported)})
    sizes = [{"num_frames": 16, "height_px": side, "width_px": side} for side in (96, 64)]
    with pytest.raises(ConfigError, match=r"prompts\.kind pairs with 2 clip\.shapes"):
        load_config(TINY, [f"prompts={section}", f"clip.shapes={json.dumps(sizes)}"], environment={})


def test_clips_of_a_sibling_run_are_reused(tiny_run: RunFolder, exported: Path, tmp_path: Path) -> None:
    up_to(importing(tmp_path / "runs", exported, tiny_run), prompts, import_clips)
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)
    second = up_to(importing(tmp_path / "runs", moved, tiny_run), prompts)
    counts = import_clips.fn(second).items[0]
    assert counts.made == 0 and counts.num_reused == import_plan(second).num_items > 0
