"""Files of weights: the forms that are read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from avpref.errors import InputError
from avpref.rewards.libraries.network_file import fill_network

STATE = {"weight": torch.full((2, 3), 2.0), "bias": torch.full((2,), 3.0)}


@pytest.mark.parametrize(
    "saved",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "step": 1},
        {"model_state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}},
    ],
)
def test_tensors_are_found_where_training_tools_put_them(saved: dict[str, object], tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    torch.save(saved, tmp_path / "file.pth")
    fill_network("flow", network, tmp_path / "file.pth")
    assert torch.equal(network.weight, STATE["weight"])
    assert torch.equal(network.bias, STATE["bias"])


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"weight": STATE["weight"]}, "lacks bias"),
        ({**STATE, "scale": torch.zeros(1)}, "has besides scale"),
        ({**STATE, "bias": torch.zeros(5)}, "has in another shape bias"),
    ],
)
def test_a_file_of_another_network_is_refused_and_nothing_is_loaded(
    saved: dict[str, torch.Tensor], words: str, tmp_path: Path
) -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    save_file(saved, tmp_path / "file.safetensors")
    with pytest.raises(InputError, match=words):
        fill_network("flow", network, tmp_path / "file.safetensors")
    assert torch.equal(network.weight, before)


class Runs:
    """An object whose pickle runs a function when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Runs(tmp_path / "ran")}, tmp_path / "file.pth")
    with pytest.raises(InputError, match="cannot be read as tensors"):
        fill_network("flow", nn.Linear(3, 2), tmp_path / "file.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_bytes_that_are_no_weights_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be read as tensors"):
        fill_network("flow", nn.Linear(3, 2), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="no mapping of names to tensors"):
        fill_network("flow", nn.Linear(3, 2), tmp_path / "list.pth")
