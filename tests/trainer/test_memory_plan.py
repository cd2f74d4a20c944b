"""The memory plan counts what autograd really saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings, CheckpointingMode
from avpref.models import recomputation
from avpref.models.dit import JavisDiT, NetworkConfig
from avpref.models.flow import Latents, LatentShapes
from avpref.trainer.adapters import add_adapter
from avpref.trainer.memory_plan import MemoryRequest, plan_memory
from avpref.trainer.scaling.base_dtype import linear_layers

NETWORK = NetworkSettings(
    dim=48, ffn_dim=96, freq_dim=16, text_dim=24, text_len=6, num_heads=2, num_layers=5, in_dim=2, audio_in_dim=1
)
SHAPES = LatentShapes((2, 3, 8, 8), (1, 8, 4))
ADAPTER = AdapterSettings(rank=4, alpha=4.0)


def measured(rows: int, mode: CheckpointingMode = "none") -> int:
    """Bytes that autograd saves in a forward pass of five layers on the CPU, attention included as it runs there."""
    network = JavisDiT(NetworkConfig.from_settings(NETWORK))
    network.checkpointing = lambda num_tokens: mode
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


def test_selective_checkpointing_keeps_what_its_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = []

    def noted(policy: Any) -> Any:
        contexts = create_selective_checkpoint_contexts(policy)
        caches.append(contexts[0].storage)
        return contexts

    monkeypatch.setattr(recomputation, "create_selective_checkpoint_contexts", noted)
    inputs = measured(2, "selective")
    entries = tree_leaves([list(of_operation.values()) for cache in caches for of_operation in cache.values()])
    tensors = [entry.val for entry in entries if isinstance(getattr(entry, "val", None), torch.Tensor)]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    assert len(caches) == NETWORK.num_layers
    plan = plan_memory(MemoryRequest(NETWORK, ADAPTER, "float32", SHAPES, 2, "selective"))
    assert plan.activations > 1.5 * inputs
    assert plan.activations == pytest.approx(inputs + sum(held.values()), rel=0.1)


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
    assert eighth.weights < 0.7 * half.weights and eighth.optimiser * 4 == half.optimiser


def test_activations_grow_with_rows() -> None:
    one, two = (plan_memory(MemoryRequest(NETWORK, ADAPTER, "float32", SHAPES, n, "none")).activations for n in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.1)


@pytest.mark.parametrize(("dtype", "scale_bytes"), [("int8", 5), ("float8", 4)])
def test_only_the_linear_layers_of_blocks_are_stored_in_8_bits(dtype: str, scale_bytes: int) -> None:
    layers = linear_layers(JavisDiT(NetworkConfig.from_settings(NETWORK)))
    assert (
        0
        < len(layers)
        < len([m for m in JavisDiT(NetworkConfig.from_settings(NETWORK)).modules() if isinstance(m, nn.Linear)])
    )
    count, outputs = sum(layer.weight.numel() for layer in layers), sum(layer.out_features for layer in layers)
    small, half = (plan_memory(MemoryRequest(NETWORK, ADAPTER, d, SHAPES, 2, "full")) for d in (dtype, "bfloat16"))
    assert small.weights == half.weights - count + scale_bytes * outputs
    assert small.activations == half.activations and small.block > half.block


def test_converted_weights_of_8_bits_are_kept_without_checkpointing() -> None:
    """More than bfloat16 would take: with checkpointing they exist for one block at a time."""
    small, half = (plan_memory(MemoryRequest(NETWORK, ADAPTER, d, SHAPES, 2, "none")) for d in ("int8", "bfloat16"))
    count = sum(layer.weight.numel() for layer in linear_layers(JavisDiT(NetworkConfig.from_settings(NETWORK))))
    assert small.activations == half.activations + 2 * count
    assert small.total > half.total


def test_sides_that_are_computed_alone_recompute_half_a_block() -> None:
    whole, by_side = (
        plan_memory(MemoryRequest(NETWORK, ADAPTER, "float32", SHAPES, 2, "full", is_by_side=own))
        for own in (False, True)
    )
    assert by_side.activations == whole.activations
    assert by_side.block == pytest.approx(whole.block / 2, rel=0.05)
