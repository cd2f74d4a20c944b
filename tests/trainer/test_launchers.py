"""Two processes train what one does: started by the launcher, under torchrun and under Ray Train, with gloo on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from avpref.config.training_settings import PreferenceLossSettings
from avpref.errors import AvprefError
from avpref.trainer import local_processes
from avpref.trainer.job import TrainingJob, save_job
from avpref.trainer.launch import launch, read_summary

MakeJob = Callable[..., TrainingJob]


def rows(job: TrainingJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def torchrun(job: TrainingJob, path: Path, count: int) -> subprocess.CompletedProcess[str]:
    save_job(path, job)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "avpref.trainer.worker", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def agree(first: TrainingJob, second: TrainingJob) -> None:
    """Curves to 1e-6; the norm of the gradient, a sum over all parameters, to 1e-4 of its size."""
    for mine, theirs in zip(rows(first), rows(second), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            rel, above = (1e-4, None) if name == "grad_norm" else (0.0, 1e-6)
            assert value == pytest.approx(theirs[name], rel=rel, abs=above), (mine["step"], name)


def test_two_torchrun_processes_train_what_one_does(dpo_job: MakeJob, tmp_path: Path) -> None:
    """A global batch of 5 is cut into 2 and 3 pairs. Small betas: large ones multiply the rounding of errors by 1500."""
    changes = {"caption_dropout": 0.2, "loss": PreferenceLossSettings(beta_video=5, beta_audio=2)}
    alone, together = (dpo_job(name, batch_size=5, dpo=changes) for name in ("alone", "together"))
    launch(alone)
    done = torchrun(together, tmp_path / "job.json", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    agree(alone, together)
    assert read_summary(together).steps == 6


def test_two_processes_of_the_launcher_train_what_one_does(dpo_job: MakeJob) -> None:
    changes = {"caption_dropout": 0.2, "loss": PreferenceLossSettings(beta_video=5, beta_audio=2)}
    alone = dpo_job("alone", batch_size=5, dpo=changes)
    together = dpo_job("together", batch_size=5, dpo=changes, num_processes=2, launcher="processes", num_threads=1)
    launch(alone)
    steps: list[int] = []
    summary = launch(together, lambda step, row: steps.append(step))
    agree(alone, together)
    assert steps[-1] == 6 and summary == read_summary(together)
    assert not torch.distributed.is_initialized()


def test_a_process_that_cannot_read_its_data_is_quoted_and_none_is_left(
    dpo_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process fails at once, and this one does not wait for it."""
    job = dpo_job("broken", num_processes=2, launcher="processes")
    monkeypatch.setattr(local_processes, "save_job", lambda path, job: path.write_text("{}"))
    with pytest.raises(AvprefError, match="a training job"):
        launch(job)
    assert not torch.distributed.is_initialized()


def test_a_process_that_dies_during_the_training_is_an_error(dpo_job: MakeJob) -> None:
    job = dpo_job("killed", num_processes=2, launcher="processes", steps=200)
    workers: list[local_processes._Worker] = []

    def kill_worker(step: int, row: Mapping[str, float]) -> None:
        workers[0].process.kill()

    start = local_processes._workers

    @contextmanager
    def remembered(*arguments: Any) -> Iterator[list[local_processes._Worker]]:
        with start(*arguments) as started:
            workers[:] = started
            yield started

    with pytest.MonkeyPatch.context() as patch, pytest.raises(AvprefError, match="a training process failed"):
        patch.setattr(local_processes, "_workers", remembered)
        launch(job, kill_worker)
    assert workers[0].process.poll() is not None and not torch.distributed.is_initialized()


@pytest.mark.slow
def test_sft_under_torchrun_goes_on_with_another_number_of_processes(sft_job: MakeJob, tmp_path: Path) -> None:
    alone, together = sft_job("alone"), sft_job("together", steps=3)
    launch(alone)
    done = torchrun(together, tmp_path / "job.json", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    launch(sft_job("together"))
    agree(alone, together)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("ray_cluster")
def test_ray_train_gives_the_same_curves_and_quotes_errors(sft_job: MakeJob, tmp_path: Path) -> None:
    alone, together = sft_job("alone"), sft_job("together", num_processes=2, launcher="ray")
    launch(alone)
    steps: list[int] = []
    summary = launch(together, lambda step, row: steps.append(step))
    agree(alone, together)
    assert steps == [int(row["step"]) for row in rows(together)]
    assert summary == read_summary(together)
    with pytest.raises(AvprefError, match="caption_dropout"):
        launch(sft_job("together", sft={"caption_dropout": 0.3}, num_processes=2, launcher="ray"))
