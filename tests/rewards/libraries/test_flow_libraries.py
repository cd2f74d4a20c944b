"""The networks of ptlflow and torchvision with random weights: equal to the libraries called directly. Skipped without them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_in_library import library_or_skip

from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.rewards.libraries.optical_flow import OpticalFlow
from avpref.rewards.protocol import ScorableClip

pytestmark = pytest.mark.filterwarnings("ignore")
"""Warnings of the libraries themselves."""


def frames(height: int = 320, width: int = 576) -> np.ndarray:
    generator = np.random.default_rng(5)
    pattern = generator.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
    picture = pattern.repeat(4, axis=0).repeat(4, axis=1)
    return np.stack([np.roll(picture, (index // 2, index), axis=(0, 1)) for index in range(33)])


def published(network: torch.nn.Module, path: Path, key: str | None = None) -> None:
    """Random weights of a fixed seed in ``network``, saved as the library's files are."""
    generator = torch.Generator().manual_seed(7)
    for tensor in network.parameters():
        if tensor.ndim > 1:
            tensor.data = 0.3 * torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
    torch.save({key: network.state_dict(), "epoch": 1} if key else network.state_dict(), path)


def product(model: Any, weights: Path) -> OpticalFlow:
    scorer = OpticalFlow(OpticalFlow.Settings(model=model, weights=str(weights)))
    scorer.load("cpu")
    return scorer


def scored(scorer: OpticalFlow, pictures: np.ndarray) -> float:
    (row,) = scorer.score([ScorableClip("a", "", DecodedClip(pictures, 16.0, None, 0, 2.0))])
    assert row[0].value is not None
    return row[0].value


def fields_of(scorer: OpticalFlow, pictures: np.ndarray) -> torch.Tensor:
    assert scorer._network is not None
    return scorer._network.fields(pictures)


@pytest.mark.slow
def test_unimatch_is_equal_to_ptlflow(tmp_path: Path) -> None:
    ptlflow = library_or_skip("ptlflow")
    adapter = importlib.import_module("ptlflow.utils.io_adapter").IOAdapter
    network = ptlflow.get_model_reference("unimatch_sc2_ref6")().eval()
    published(network, tmp_path / "file.pth", "model")
    clip, scorer = frames(), product("unimatch", tmp_path / "file.pth")
    wanted = []
    for index in (0, 10, 20):
        pair = [np.ascontiguousarray(clip[at, :, :, ::-1]) for at in (index, index + 10)]
        inputs = adapter(network, (320, 576)).prepare_inputs(pair)
        with torch.no_grad():
            wanted.append(network(inputs)["flows"][0])
    expected = torch.cat(wanted)
    actual = fields_of(scorer, clip[:31:10])
    assert float(expected.abs().mean()) > 0.01
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert scored(scorer, clip) == pytest.approx(float(expected.abs().double().mean()), rel=1e-5)


@pytest.mark.parametrize("name", [pytest.param("raft_large", marks=pytest.mark.slow), "raft_small"])
def test_raft_is_equal_to_torchvision(name: str, tmp_path: Path) -> None:
    library = library_or_skip("torchvision.models.optical_flow")
    network = getattr(library, name)(weights=None).eval()
    published(network, tmp_path / "file.pth")
    clip, scorer = frames(), product(name, tmp_path / "file.pth")
    planes = torch.from_numpy(clip[:31:10].transpose(0, 3, 1, 2).copy())
    weights = library.Raft_Large_Weights.DEFAULT if name == "raft_large" else library.Raft_Small_Weights.DEFAULT
    pairs = [weights.transforms()(planes[at : at + 1], planes[at + 1 : at + 2]) for at in range(3)]
    with torch.no_grad():
        expected = torch.cat([network(*pair)[-1] for pair in pairs])
    assert float(expected.abs().mean()) > 0.01
    assert torch.allclose(fields_of(scorer, clip[:31:10]), expected, rtol=1e-5, atol=1e-5)
    assert scored(scorer, clip) == pytest.approx(float(expected.abs().double().mean()), rel=1e-5)


def test_a_file_of_the_other_size_is_refused(tmp_path: Path) -> None:
    library = library_or_skip("torchvision.models.optical_flow")
    published(library.raft_small(weights=None), tmp_path / "small.pth")
    with pytest.raises(InputError, match="does not fit RAFT"):
        product("raft_large", tmp_path / "small.pth")
