"""Pairs that speak for one dimension, from the sealed pair table to the trained adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.domain import ALL_DIMENSIONS
from avpref.flows.run import Run
from avpref.flows.stages.train import moved_modalities, train
from avpref.storage.run_folder import RunFolder
from avpref.trainer.data.job_data import open_pairs


def with_dimensions(folder: RunFolder, dimensions: list[str]) -> list[str]:
    """Seal the run's pairs with other values of the column ``dimension``, in turn; returns the value of each pair."""
    pairs = folder.tables.read(tables.PAIRS)
    values = [dimensions[number % len(dimensions)] for number in range(pairs.num_rows)]
    column = pairs.column_names.index("dimension")
    routed = pairs.set_column(column, pairs.schema.field(column), pa.array(values, pa.string()))
    folder.tables.seal(tables.PAIRS, "routed " + " ".join(dimensions), routed)
    return values


def test_dimensions_become_the_modalities_that_a_loss_moves() -> None:
    moves = moved_modalities(
        ["video", "audio", "av", ALL_DIMENSIONS, "speech", "shots", "other"], {"speech": "audio", "shots": "video"}
    )
    assert moves is not None
    assert moves.video.tolist() == [True, False, True, True, False, True, True]
    assert moves.audio.tolist() == [False, True, True, True, True, False, True]
    assert moved_modalities([ALL_DIMENSIONS] * 3, {"speech": "audio"}) is None


def test_a_run_trains_what_its_pairs_speak_for(tiny_copy: Callable[..., RunFolder]) -> None:
    joint = Run.of(tiny_copy("train", "joint"))
    train.fn(joint)
    plain = open_pairs(joint.training_job)
    assert plain.moves(range(len(plain.ids))) is None
    folder = tiny_copy("train", "routed")
    dimensions = with_dimensions(folder, ["video", "av", "video"])
    run = Run.of(folder)
    assert run.training_job.output.name != joint.training_job.output.name
    train.fn(run)
    data = open_pairs(run.training_job)
    moves = data.moves(range(len(data.ids)))
    assert moves is not None
    assert moves[0].all() and moves[1].tolist() == [name == "av" for name in dimensions]
    rows = [json.loads(line) for line in (run.training_job.output / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == run.settings.dpo.loop.steps and all("chosen_shift_video" in row for row in rows)
    assert run.training_summary.displacement.video is not None
    before = (run.training_job.output / "adapter" / "adapter_model.safetensors").read_bytes()
    assert before != (joint.training_job.output / "adapter" / "adapter_model.safetensors").read_bytes()


def test_another_mapping_of_dimensions_is_another_training(tiny_run: RunFolder) -> None:
    jobs = [
        Run.of(
            replace(tiny_run, settings=load_config(tiny_run.root / "config.yaml", overrides, environment={}).settings)
        )
        for overrides in ([], ["scoring.modalities={speech: audio}"], ["scoring.modalities={speech: video}"])
    ]
    assert len({run.training_job.output for run in jobs}) == 3


@pytest.mark.parametrize("dimension", ["video", "audio"])
def test_a_training_without_pairs_of_a_modality_has_no_displacement_of_it(
    tiny_copy: Callable[..., RunFolder], dimension: str
) -> None:
    folder = tiny_copy("train", dimension)
    settings = load_config(folder.root / "config.yaml", ["dpo.desync_share=0"], environment={}).settings
    folder = replace(folder, settings=settings)
    with_dimensions(folder, [dimension])
    run = Run.of(folder)
    train.fn(run)
    moved = vars(run.training_summary.displacement)
    assert {name for name, value in moved.items() if value is not None} == {dimension}
