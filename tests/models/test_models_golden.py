"""Numeric parity with the original network, sampler and timestep shift.

The vectors keep the original's conventions: t in 0..1000, network output negated (x0 - x1).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import Latents, shift_ratio, shift_timesteps
from avpref.models.positions import AudioPositions, audio_positions
from avpref.models.sampling import SamplerSettings, sample
from avpref.models.text import TextBatch

pytestmark = pytest.mark.golden
TOLERANCE = 1e-5
ORIGINAL_SCHEMES = [scheme for scheme in AudioPositions if scheme is not AudioPositions.INTERLEAVE_OFFSET_ROUNDED]


def relative_error(actual: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the output's scale."""
    return ((actual - wanted).abs().max() / wanted.abs().max()).item()


@pytest.fixture(scope="module")
def config(golden: Path) -> NetworkConfig:
    return NetworkConfig.from_original(json.loads((golden / "javis_config.json").read_text()))


@pytest.fixture(scope="module")
def weights(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "javis_policy.safetensors")


@pytest.fixture(scope="module")
def vectors(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "javis_forward.safetensors")


@pytest.fixture
def network(config: NetworkConfig, weights: dict[str, Tensor]) -> JavisDiT:
    network = JavisDiT(config)
    network.load_state_dict(weights)
    return network


def test_names_and_shapes(network: JavisDiT, weights: dict[str, Tensor]) -> None:
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert own == {name: tensor.shape for name, tensor in weights.items()}


@pytest.mark.parametrize("scheme", ORIGINAL_SCHEMES)
def test_positions_are_exact(network: JavisDiT, vectors: dict[str, Tensor], scheme: AudioPositions) -> None:
    grid = network.token_grid(Latents(vectors["video"], vectors["audio"]))
    assert torch.equal(audio_positions(grid, scheme), vectors[f"ids.{scheme}"])


@torch.no_grad()
@pytest.mark.parametrize("scheme", ORIGINAL_SCHEMES)
def test_forward(
    config: NetworkConfig, weights: dict[str, Tensor], vectors: dict[str, Tensor], scheme: AudioPositions
) -> None:
    network = JavisDiT(replace(config, audio_pe_type=scheme))
    network.load_state_dict(weights)
    latents = Latents(vectors["video"], vectors["audio"])
    velocity = network(latents, vectors["t"].double() / 1000, vectors["y"], vectors["mask"])
    for name, actual in velocity._asdict().items():
        assert relative_error(-actual, vectors[f"out.{scheme}.{name}"]) < TOLERANCE


@torch.no_grad()
def test_audio_only_build(
    config: NetworkConfig, weights: dict[str, Tensor], vectors: dict[str, Tensor], golden: Path
) -> None:
    original = load_file(golden / "javis_t2a.safetensors")
    network = JavisDiT(config, ModelType.T2A)
    names = bytes(original["keys"].tolist()).decode().split("\n")
    assert set(network.state_dict()) == set(names)
    network.load_state_dict({name: weights[name] for name in names})
    velocity = network(
        Latents(None, original["audio"]),
        vectors["t"].double() / 1000,
        vectors["y"],
        vectors["mask"],
        num_video_latents=vectors["video"].shape[2],
    )
    assert velocity.video is None
    assert relative_error(-velocity.audio, original["out.audio"]) < TOLERANCE


def test_sampler(network: JavisDiT, golden: Path) -> None:
    """The settings are those that the vectors' README states."""
    vectors = load_file(golden / "javis_sampler.safetensors")
    settings = SamplerSettings(steps=6, guidance=5.0, shift_ratio=shift_ratio(240, 426, 65, 1.0))
    text, negative = TextBatch(vectors["y"], vectors["mask"]), TextBatch(vectors["y_neg"], vectors["mask_neg"])
    actual = sample(network, Latents(vectors["video"], vectors["audio"]), text, negative, settings)
    for name, part in actual._asdict().items():
        assert relative_error(part, vectors[f"out.{name}"]) < TOLERANCE


def test_timestep_shift(golden: Path) -> None:
    for row in json.loads((golden / "timestep_shift.json").read_text()):
        ratio = shift_ratio(row["height"], row["width"], row["num_frames"], row["scale"])
        actual = shift_timesteps(torch.tensor(row["t"]) / 1000, ratio) * 1000
        torch.testing.assert_close(actual, torch.tensor(row["out"]), rtol=TOLERANCE, atol=0)
