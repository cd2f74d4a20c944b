"""The memory plan counts what autograd really saves."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings
from avpref.models.dit import JavisDiT, NetworkConfig
from avpref.models.flow import Latents, LatentShapes
from avpref.trainer.adapters import add_adapter
from avpref.trainer.memory_plan import MemoryRequest, plan_memory

NETWORK = NetworkSettings(
    dim=48, ffn_dim=96, freq_dim=16, text_dim=24, text_len=6, num_heads=2, num_layers=5, in_dim=2, audio_in_dim=1
)
SHAPES = LatentShapes((2, 3, 8, 8), (1, 8, 4))
ADAPTER = AdapterSettings(rank=4, alpha=4.0)


def measured(rows: int) -> int:
    """Bytes that autograd saves in a forward pass of five layers on the CPU, attention included as it runs there."""
    network = JavisDiT(NetworkConfig.from_settings(NETWORK))
    model = add_adapter(network, ADAPTER, 0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    latents = Latents(*(torch.randn(rows, *shape) for shape in SHAPES if shape is not None))
    text = torch.randn(rows, NETWORK.text_len, NETWORK.text_dim)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(latents, torch.rand(rows), text, torch.ones(rows, NETWORK.text_len))
        loss = sum(part.square().mean() for part in out if part is not None)
    assert loss is not None
    return sum(saved.values())


@pytest.mark.parametrize("rows", [1, 2])
def test_activations_are_those_that_autograd_saves(rows: int) -> None:
    plan = plan_memory(MemoryRequest(NETWORK, ADAPTER, "float32", SHAPES, rows, "none"))
    assert plan.activations == pytest.approx(measured(rows), rel=0.1)


def test_static_parts_are_the_parameters() -> None:
    plan = plan_memory(MemoryRequest(NETWORK, ADAPTER, "bfloat16", SHAPES, 2, "none", has_average=True))
    network = JavisDiT(NetworkConfig.from_settings(NETWORK))
    frozen = sum(parameter.numel() for parameter in network.parameters())
    adapted = add_adapter(network, ADAPTER, 0)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert (plan.weights, plan.trained, plan.gradients) == (2 * frozen, 4 * trained, 4 * trained)
    assert (plan.optimiser, plan.average, plan.block) == (8 * trained, 4 * trained, 0)


def test_checkpointing_and_smaller_types_need_less() -> None:
    full = plan_memory(MemoryRequest(NETWORK, ADAPTER, "float32", SHAPES, 2, "none"))
    recomputed = plan_memory(MemoryRequest(NETWORK, ADAPTER, "float32", SHAPES, 2, "full"))
    assert recomputed.activations + recomputed.block < full.activations
    eighth = plan_memory(MemoryRequest(NETWORK, ADAPTER, "int8", SHAPES, 2, "none", state_bits=8))
    half = plan_memory(MemoryRequest(NETWORK, ADAPTER, "bfloat16", SHAPES, 2, "none"))
    assert eighth.weights < 0.6 * half.weights and eighth.optimiser * 4 == half.optimiser


def test_activations_grow_with_rows() -> None:
    one, two = (plan_memory(MemoryRequest(NETWORK, ADAPTER, "float32", SHAPES, n, "none")).activations for n in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.1)
