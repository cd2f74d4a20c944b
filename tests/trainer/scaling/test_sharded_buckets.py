"""Clips of two shapes under FSDP2: ranks that have fewer forward passes keep up, and train what one process trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from latent_stores import store_of_two_shapes

from avpref.config.training_settings import PreferenceLossSettings
from avpref.trainer.adapter_files import read_adapter_weights
from avpref.trainer.data.job_data import open_pairs, schedule_of
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.noise import shard_for_rank
from avpref.trainer.run_job import order_seed

MakeJob = Callable[..., TrainingJob]
SMALL = PreferenceLossSettings(beta_video=5, beta_audio=2)
TWO = {"num_processes": 2, "launcher": "processes", "sharding": "fsdp2"}
BUDGET = 80
"""Tokens of a pass: one pair of the larger shape, two of the smaller."""


def rows(job: TrainingJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def passes_by_rank(job: TrainingJob) -> list[tuple[int, ...]]:
    """Number of passes of each of two ranks, step by step."""
    schedule, loop = schedule_of(job, open_pairs(job)), job.settings.loop
    steps = (schedule.samples(order_seed(job), step, loop.batch_size) for step in range(loop.steps))
    return [tuple(len(schedule.passes(shard_for_rank(indices, rank, 2))) for rank in range(2)) for indices in steps]


@pytest.mark.parametrize(
    "dpo",
    [
        {},
        pytest.param({"two_pass": True, "ema_decay": 0.9}, marks=pytest.mark.slow),
        pytest.param({"by_side": True}, marks=pytest.mark.slow),
    ],
)
def test_two_sharded_processes_with_buckets_train_what_one_does(
    dpo_job: MakeJob, tmp_path: Path, dpo: dict[str, object]
) -> None:
    """One shape is checkpointed and the other is not, so that ranks also differ in what they recompute."""
    data = store_of_two_shapes(tmp_path / "store")
    fields = {"desync_share": 0.0, "loss": SMALL, **dpo}
    loop: dict[str, object] = {"batch_size": 5, "max_tokens": BUDGET, "checkpointing_by_tokens": ((30, "full"),)}
    alone = replace(dpo_job("alone", dpo=fields, **loop), data=data)
    together = replace(dpo_job("together", dpo=fields, **loop, **TWO), data=data)
    assert any(first != second for first, second in passes_by_rank(alone)), "no step has ranks of unequal passes"
    launch(alone)
    launch(together)
    for mine, theirs in zip(rows(alone), rows(together), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            rel, above = (1e-4, None) if name == "grad_norm" else (0.0, 1e-6)
            assert value == pytest.approx(theirs[name], rel=rel, abs=above), (mine["step"], name)
    own, other = (read_adapter_weights(job.output / "adapter") for job in (alone, together))
    for name, factors in own.items():
        for factor, another in zip(factors, other[name], strict=True):
            torch.testing.assert_close(factor, another, rtol=1e-4, atol=1e-6, msg=name)
