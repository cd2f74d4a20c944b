"""A training whose process is killed goes on from its newest checkpoint and ends in the same adapter."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

from avpref.config.training_settings import PreferenceLossSettings
from avpref.errors import AvprefError
from avpref.trainer import local_processes
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch

MakeJob = Callable[..., TrainingJob]
SMALL = PreferenceLossSettings(beta_video=5, beta_audio=2)


def is_train_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "TrainWorker" in "".join(process.cmdline())
    return False


def rows(job: TrainingJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def adapter(job: TrainingJob) -> bytes:
    return (job.output / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_process_of_the_launcher_starts_all_again(dpo_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    two: dict[str, Any] = {"num_processes": 2, "launcher": "processes", "steps": 8, "checkpoint_every": 2}
    whole, killed = dpo_job("whole", **two), dpo_job("killed", **two)
    launch(whole)
    groups: list[list[local_processes._Worker]] = []
    start = local_processes._workers

    @contextmanager
    def remembered(*arguments: Any) -> Iterator[list[local_processes._Worker]]:
        with start(*arguments) as started:
            groups.append(started)
            yield started

    monkeypatch.setattr(local_processes, "_workers", remembered)
    seen: list[int] = []

    def kill_once(step: int, row: Mapping[str, float]) -> None:
        seen.append(step)
        if step == 4 and len(groups) == 1:
            groups[0][0].process.kill()

    launch(killed, kill_once)
    assert len(groups) == 2 and seen[-1] == 8
    assert adapter(killed) == adapter(whole)


def test_no_restart_is_left_where_none_is_allowed(dpo_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = dpo_job("killed", num_processes=2, launcher="processes", steps=200, max_restarts=0)
    started: list[local_processes._Worker] = []
    start = local_processes._workers

    @contextmanager
    def remembered(*arguments: Any) -> Iterator[list[local_processes._Worker]]:
        with start(*arguments) as workers:
            started[:] = workers
            yield workers

    monkeypatch.setattr(local_processes, "_workers", remembered)
    with pytest.raises(AvprefError, match="killed by signal 9"):
        launch(job, lambda step, row: started[0].process.kill())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("sharding", ["sums", "fsdp2"])
def test_workers_of_ray_train_what_one_process_does_and_survive_a_kill(dpo_job: MakeJob, sharding: str) -> None:
    """The adapter of two killed workers is that of two processes without Ray; their first rows are those of one process."""
    length: dict[str, Any] = {"steps": 120, "checkpoint_every": 20, "log_every": 1}
    two: dict[str, Any] = {"num_processes": 2, "sharding": sharding, **length}
    alone = dpo_job("alone", dpo={"loss": SMALL}, **length)
    whole = dpo_job("whole", dpo={"loss": SMALL}, launcher="processes", **two)
    killed = dpo_job("killed", dpo={"loss": SMALL}, launcher="ray", **two)
    launch(alone)
    launch(whole)
    kills: list[int] = []

    def kill_once(step: int, row: Mapping[str, float]) -> None:
        """Kill a worker that a Ray of this process started; Ray writes the class into the titles of its processes."""
        if step >= 3 and not kills:
            children = psutil.Process().children(recursive=True)
            kills.append(max(child.pid for child in children if is_train_worker(child)))
            os.kill(kills[0], signal.SIGKILL)

    launch(killed, kill_once)
    assert kills and adapter(killed) == adapter(whole)
    for mine, theirs in zip(rows(alone)[:10], rows(killed)[:10], strict=True):
        for name, value in mine.items():
            rel, above = (1e-4, None) if name == "grad_norm" else (0.0, 1e-6)
            assert value == pytest.approx(theirs[name], rel=rel, abs=above), (mine["step"], name)
