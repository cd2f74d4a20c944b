"""Checkpoints: whole or not at all, kept to a number, and refused under other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import avpref.trainer.checkpoint as checkpoint_module
from avpref.errors import ConfigError, InputError, SchemaVersionError, StorageError
from avpref.trainer.checkpoint import STATE_FILE, TENSORS_FILE, CheckpointFolder, TrainingState

PRINT = {"lr": "0.1", "sha256.data": "abc"}


def state(seed: int = 0, *, average: bool = True, stepped: int = 2) -> TrainingState:
    draw = torch.Generator().manual_seed(seed)
    parameters = {name: nn.Parameter(torch.randn(2, 3, generator=draw)) for name in ("a/b.weight", "c")}
    optimiser = torch.optim.AdamW(parameters.values(), lr=0.1, fused=True)
    for _ in range(stepped):
        for parameter in parameters.values():
            parameter.grad = torch.randn(2, 3, generator=draw)
        optimiser.step()
    return TrainingState(parameters, optimiser, {n: p.detach() + 1 for n, p in parameters.items()} if average else {})


def test_round_trip(tmp_path: Path) -> None:
    folder, saved, restored = CheckpointFolder(tmp_path, PRINT, 2), state(0), state(1)
    folder.save(7, saved)
    assert folder.resume(restored) == 7
    mine, theirs = saved.tensors(), restored.tensors()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    for training in (saved, restored):
        for parameter in training.parameters.values():
            parameter.grad = torch.ones(2, 3)
        training.optimiser.step()
    assert all(torch.equal(saved.parameters[n], restored.parameters[n]) for n in saved.parameters)


def test_without_a_checkpoint_nothing_changes(tmp_path: Path) -> None:
    training = state()
    before = {name: value.clone() for name, value in training.tensors().items()}
    assert CheckpointFolder(tmp_path / "absent", PRINT, 2).resume(training) == 0
    assert all(torch.equal(before[name], value) for name, value in training.tensors().items())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, PRINT, 2)
    for step in (3, 10, 100):
        folder.save(step, state(step))
    assert folder.steps() == [10, 100]
    assert folder.resume(state()) == 100
    folder.save(100, state(5))
    assert folder.steps() == [10, 100]


@pytest.mark.parametrize("moment", ["tensors", "record", "rename"])
def test_a_write_that_is_interrupted_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder, good = CheckpointFolder(tmp_path, PRINT, 2), state(0)
    folder.save(3, good)

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    whole = checkpoint_module.replace
    with monkeypatch.context() as patch:
        if moment == "rename":
            patch.setattr(checkpoint_module.os, "rename", die)
        else:
            file = TENSORS_FILE if moment == "tensors" else STATE_FILE
            patch.setattr(
                checkpoint_module, "replace", lambda path, data: die() if path.name == file else whole(path, data)
            )
        with pytest.raises(KeyboardInterrupt):
            folder.save(6, state(1))
    restored = state(2)
    assert folder.steps() == [3]
    assert folder.resume(restored) == 3
    assert torch.equal(restored.parameters["c"], good.parameters["c"])
    folder.save(6, state(1))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_00000003", "step_00000006"]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, PRINT, 2).save(3, state())
    with pytest.raises(ConfigError) as caught:
        CheckpointFolder(tmp_path, PRINT | {"lr": "0.2", "new": "1"}, 2).resume(state())
    assert "lr: 0.1 in the checkpoint, 0.2 now" in caught.value.found
    assert "new: None in the checkpoint, 1 now" in caught.value.found
    assert "sha256" not in caught.value.found
    assert caught.value.fix


def test_broken_checkpoints_say_what_to_delete(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, PRINT, 2)
    folder.save(3, state())
    (tmp_path / "step_00000003" / TENSORS_FILE).write_bytes(b"torn")
    with pytest.raises(InputError, match="step_00000003"):
        folder.resume(state())


def test_another_schema_version(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, PRINT, 2)
    path = folder.save(3, state()) / STATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 999}))
    with pytest.raises(SchemaVersionError):
        folder.resume(state())


def test_another_set_of_parameters(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, PRINT, 2)
    folder.save(3, state(average=True))
    with pytest.raises(InputError, match="average/"):
        folder.resume(state(average=False))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        CheckpointFolder(tmp_path / "file", PRINT, 2).save(3, state())
