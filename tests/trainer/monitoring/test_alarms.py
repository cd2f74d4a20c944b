"""Alarms mark or stop a training, at the same step on every rank, and leave the last checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from avpref.config.training.monitoring_settings import AlarmSettings
from avpref.errors import AvprefError
from avpref.trainer.checkpoint import CheckpointFolder
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.monitoring.alarms import GradientWatch, act, mark, raised_alarms
from avpref.trainer.parallel import Context

MakeJob = Callable[..., TrainingJob]
ASKED = AlarmSettings(loss_spike=3.0, audio_collapse=1.5)


def row(step: int, loss: float = 1.0, audio: float = 1.0) -> dict[str, float]:
    return {"step": step, "loss": loss, "flow_audio": audio}


def test_a_spike_is_measured_in_medians_of_the_steps_before() -> None:
    calm = [row(step, loss) for step, loss in enumerate([1.0, 1.2, 0.8] * 5)]
    assert "loss_spike" in raised_alarms(row(16, 3.1), calm, calm, ASKED)
    assert not raised_alarms(row(16, 2.9), calm, calm, ASKED)
    assert not raised_alarms(row(16, 99.0), calm, calm[:9], ASKED), "too few steps for a median"
    assert not raised_alarms(row(16, 99.0), calm, calm, AlarmSettings())


def test_audio_collapse_compares_running_means() -> None:
    first = [row(step) for step in range(50)]
    worse = [row(step, audio=1.6) for step in range(50, 99)]
    assert "audio_collapse" in raised_alarms(row(99, audio=1.6), first, worse + first[:1], ASKED)
    assert not raised_alarms(row(99, audio=9.0), first, first, ASKED), "one step moves the mean by less"
    silent = [{"step": float(step), "loss": 1.0} for step in range(60)]
    assert not raised_alarms({"step": 60, "loss": 1.0}, silent, silent, ASKED), "a training without audio"


def test_rows_have_a_field_for_every_alarm_that_is_asked_for() -> None:
    assert mark(row(1), {"loss_spike": "3"}, ASKED) == row(1) | {"loss_spike_alarm": 1.0, "audio_collapse_alarm": 0.0}
    assert mark(row(1), {}, AlarmSettings()) == row(1)


def test_stopping_names_step_and_measure(caplog: pytest.LogCaptureFixture) -> None:
    act(7, {}, AlarmSettings(action="stop"))
    with pytest.raises(AvprefError, match="alarm at step 7: loss_spike: loss 9"):
        act(7, {"loss_spike": "loss 9"}, AlarmSettings(action="stop"))
    with caplog.at_level(logging.WARNING):
        act(7, {"idle_adapter": "2 tensors"}, AlarmSettings())
    assert "idle_adapter: 2 tensors" in caplog.text


def test_tensors_that_never_had_a_gradient_are_named_once() -> None:
    used, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    watch = GradientWatch(["used", "idle"], 2)
    for value in (0.0, 1.0):
        assert not watch.idle(Context())
        used.grad, idle.grad = torch.full((2,), value), torch.zeros(3)
        watch.add([used, idle])
    assert watch.idle(Context()) == {"idle_adapter": "1 trained tensors never had a gradient, first idle"}
    assert not watch.idle(Context())


@pytest.mark.parametrize("action", ["mark", "stop"])
def test_a_training_that_displaces_its_chosen_clips(dpo_job: MakeJob, action: str) -> None:
    changes: dict[str, Any] = {"optimiser": {"lr": 1.0, "warmup_steps": 0}, "displacement_alarm": 0.01}
    job = dpo_job(dpo=changes, alarms={"action": action}, checkpoint_every=1, log_every=1)
    if action == "mark":
        assert launch(job).alarms > 0
        return
    with pytest.raises(AvprefError, match="displacement: chosen clips became less likely"):
        launch(job)
    rows = [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["displacement_alarm"] is True and not any(row["displacement_alarm"] for row in rows[:-1])
    assert CheckpointFolder(job.output / "checkpoints", {}, 1).steps()[-1] == len(rows) - 1


def test_a_training_whose_adapter_gets_gradients_raises_nothing(
    dpo_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    launch(dpo_job(alarms={"action": "stop", "idle_adapter_steps": 3}, dpo={"displacement_alarm": 100.0}))
    assert "idle_adapter" not in caplog.text
