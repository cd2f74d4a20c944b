"""A small network and inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import Latents
from avpref.models.initialisation import create_network

TINY = NetworkConfig(
    dim=24, ffn_dim=40, freq_dim=16, text_dim=10, text_len=6, num_heads=2, num_layers=2, in_dim=3, audio_in_dim=2
)
RELEASED = NetworkConfig(
    dim=1536,
    ffn_dim=8960,
    freq_dim=256,
    text_dim=4096,
    text_len=512,
    num_heads=12,
    num_layers=30,
    in_dim=16,
    audio_in_dim=8,
)


@dataclass(frozen=True)
class Inputs:
    latents: Latents
    t: Tensor
    text: Tensor
    mask: Tensor


@pytest.fixture
def tiny_config() -> NetworkConfig:
    return TINY


@pytest.fixture
def full_size() -> Callable[..., JavisDiT]:
    """full_size(model_type): the network of the released size, shapes without memory."""

    def build(model_type: ModelType = ModelType.T2AV) -> JavisDiT:
        with torch.device("meta"):
            return JavisDiT(RELEASED, model_type)

    return build


@pytest.fixture
def make_network() -> Callable[..., JavisDiT]:
    """make_network(model_type, **changes): a network whose every parameter, zero heads included, is random."""

    def make(model_type: ModelType = ModelType.T2AV, **changes: Any) -> JavisDiT:
        generator = torch.Generator().manual_seed(5)
        network = create_network(replace(TINY, **changes), model_type, generator)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return network

    return make


@pytest.fixture
def make_inputs() -> Callable[..., Inputs]:
    """make_inputs(model_type, rows): latents of that build, timesteps, text and masks."""

    def make(model_type: ModelType = ModelType.T2AV, rows: int = 3) -> Inputs:
        generator = torch.Generator().manual_seed(9)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        video, audio = draw(rows, 3, 3, 4, 6), draw(rows, 2, 12, 4)
        latents = Latents(video if model_type.has_video else None, audio if model_type.has_audio else None)
        mask = (torch.arange(6) < torch.tensor([2, 6, 0] * rows)[:rows, None]).float()
        return Inputs(latents, torch.rand(rows, generator=generator), draw(rows, 6, 10), mask)

    return make
