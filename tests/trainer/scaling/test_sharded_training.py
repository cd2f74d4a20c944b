"""Two processes that hold parts of the network (FSDP2, gloo) train what one process trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from avpref.config.training_settings import PreferenceLossSettings
from avpref.errors import ConfigError
from avpref.trainer.adapter_files import read_adapter_weights
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch

MakeJob = Callable[..., TrainingJob]
SMALL = PreferenceLossSettings(beta_video=5, beta_audio=2)
TWO = {"num_processes": 2, "launcher": "processes", "sharding": "fsdp2"}


def rows(job: TrainingJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def agree(first: TrainingJob, second: TrainingJob) -> None:
    for mine, theirs in zip(rows(first), rows(second), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            rel, above = (1e-4, None) if name == "grad_norm" else (0.0, 1e-6)
            assert value == pytest.approx(theirs[name], rel=rel, abs=above), (mine["step"], name)


@pytest.mark.parametrize(
    "dpo", [pytest.param({"ema_decay": 0.9}, marks=pytest.mark.slow), {"reference": "ema", "two_pass": True}]
)
def test_sharded_dpo_trains_what_one_process_does(dpo_job: MakeJob, dpo: dict[str, object]) -> None:
    """Five pairs per step in two and three; interrupted once, so that parts are saved whole and loaded as parts."""
    changes = {"loss": SMALL, **dpo}
    alone = dpo_job("alone", batch_size=5, dpo=changes)
    launch(alone)
    for steps in (3, 6):
        together = dpo_job("together", batch_size=5, dpo=changes, steps=steps, **TWO)
        launch(together)
    agree(alone, together)
    mine, theirs = (read_adapter_weights(job.output / "adapter") for job in (alone, together))
    for name, factors in mine.items():
        for factor, other in zip(factors, theirs[name], strict=True):
            torch.testing.assert_close(factor, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_sharded_sft_trains_what_one_process_does(sft_job: MakeJob) -> None:
    """Both stages are sharded; the audio branch of the first has frozen tensors beside trained ones."""
    changes = {"ema_decay": 0.5, "audio_steps": 3}
    alone, together = sft_job("alone", sft=changes), sft_job("together", sft=changes, **TWO)
    launch(alone)
    launch(together)
    agree(alone, together)
    agree(*(replace(job, output=job.output / "audio_stage") for job in (alone, together)))


def test_sharding_refuses_what_it_cannot_hold(dpo_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="sharding fsdp2"):
        launch(dpo_job(sharding="fsdp2", dpo={"optimiser": {"state_bits": 8}}))
