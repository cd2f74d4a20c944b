"""Checkpoints that a thread writes: a copy of the step's state, whole or absent, and errors that stop the training."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import avpref.trainer.checkpoint as checkpoint_module
from avpref.errors import StorageError
from avpref.trainer.checkpoint import TENSORS_FILE, CheckpointFolder, TrainingState
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.scaling.background import BackgroundCheckpoints

MakeJob = Callable[..., TrainingJob]


def state(value: float = 0.0) -> TrainingState:
    parameters = {"w": nn.Parameter(torch.full((3,), value))}
    return TrainingState(parameters, torch.optim.AdamW(parameters.values(), fused=True))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list whose number, where it has one, is how many further writes of tensors find room."""
    room: list[int] = []
    whole = checkpoint_module.replace

    def write(path: Path, data: bytes) -> None:
        if room and path.name == TENSORS_FILE:
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, data)

    monkeypatch.setattr(checkpoint_module, "replace", write)
    return room


def test_the_state_of_the_step_is_saved_while_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, training, may_write = CheckpointFolder(tmp_path, {}, 2), state(1.0), threading.Event()
    write = CheckpointFolder.write
    monkeypatch.setattr(CheckpointFolder, "write", lambda *arguments: may_write.wait(30) and write(*arguments))
    with BackgroundCheckpoints(folder, is_writer=True) as checkpoints:
        checkpoints.save(3, training)
        with torch.no_grad():
            training.parameters["w"].fill_(9.0)
        assert folder.steps() == []
        may_write.set()
    restored = state()
    assert folder.resume(restored) == 3
    assert restored.parameters["w"].tolist() == [1.0, 1.0, 1.0]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with BackgroundCheckpoints(CheckpointFolder(tmp_path, {}, 2), is_writer=False) as checkpoints:
        checkpoints.save(3, state())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_stops_the_training_and_keeps_the_last_good_checkpoint(tmp_path: Path, disk: list[int]) -> None:
    folder = CheckpointFolder(tmp_path, {}, 2)
    disk.append(1)
    with (
        pytest.raises(StorageError, match="no space left"),
        BackgroundCheckpoints(folder, is_writer=True) as checkpoints,
    ):
        checkpoints.save(3, state(3.0))
        checkpoints.save(6, state(6.0))
        checkpoints.save(9, state(9.0))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000003"], "the torn one gave its room back"
    restored = state()
    assert folder.resume(restored) == 3 and restored.parameters["w"].tolist() == [3.0] * 3


def test_a_training_on_a_disk_that_fills_resumes_to_the_same_adapter(dpo_job: MakeJob, disk: list[int]) -> None:
    whole, stopped = dpo_job("whole", checkpoint_every=2), dpo_job("stopped", checkpoint_every=2)
    launch(whole)
    disk.append(1)
    with pytest.raises(StorageError, match="no space left"):
        launch(stopped)
    disk.clear()
    launch(stopped)
    file = Path("adapter") / "adapter_model.safetensors"
    assert (whole.output / file).read_bytes() == (stopped.output / file).read_bytes()


def test_checkpoints_of_every_so_many_steps_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {}, 1, keep_every=4)
    for step in range(1, 10):
        folder.save(step, state())
    assert folder.steps() == [4, 8, 9]


def test_a_broken_thread_is_an_error_at_the_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(CheckpointFolder, "write", fail)
    with (
        pytest.raises(ValueError, match="broken"),
        BackgroundCheckpoints(CheckpointFolder(tmp_path, {}, 1), is_writer=True) as checkpoints,
    ):
        checkpoints.save(1, state())
