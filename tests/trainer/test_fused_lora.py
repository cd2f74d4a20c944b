"""The fused LoRA operation gives PEFT's values and gradients, and keeps less for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from present import present
from torch import Tensor, nn

from avpref.config.training_settings import AdapterSettings, CheckpointingMode
from avpref.models.dit import JavisDiT
from avpref.models.flow import Latents
from avpref.trainer.adapters import POLICY, Policy, factors, make_policy

MakeNetwork = Callable[..., JavisDiT]


def inputs() -> tuple[Latents, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(9)
    latents = Latents(torch.randn(2, 2, 3, 4, 4, generator=draw), torch.randn(2, 1, 6, 4, generator=draw))
    return latents, torch.rand(2, generator=draw), torch.randn(2, 3, 8, generator=draw), torch.ones(2, 3)


def trained(make_network: MakeNetwork, alpha: float, dtype: torch.dtype) -> Policy:
    """A policy some steps after its start."""
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=alpha), seed=1, dtype=dtype)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in policy.layers:
            for factor in factors(layer, POLICY):
                factor.add_(0.1 * torch.randn(factor.shape, generator=draw))
    return policy


def network_of(policy: Policy) -> JavisDiT:
    return cast(JavisDiT, policy.model.base_model.model)


def as_peft(policy: Policy) -> Policy:
    """The policy with PEFT's own classes."""
    for layer in policy.layers:
        own = next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("peft"))
        layer.__class__ = own
        assert own is LoraLinear
    return policy


def gradients(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = sum(((part - 0.3).square().mean() for part in model(*inputs())), start=torch.zeros(()))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kept_bytes(model: nn.Module) -> int:
    """Bytes of the distinct storages that autograd keeps, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(*inputs())
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def nodes_of(output: Tensor) -> set[str]:
    """Names of the operations behind ``output``."""
    names: set[str] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            names.add(node.name())
            waiting += [previous for previous, _ in node.next_functions]
    return names


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_values_and_gradients_are_those_of_peft(
    make_network: MakeNetwork, alpha: float, checkpointing: CheckpointingMode
) -> None:
    """With a scale that is a power of two, and with another."""
    policy, plain = (trained(make_network, alpha, torch.float32) for _ in range(2))
    for model in (policy, plain):
        network_of(model).checkpointing = lambda num_tokens: checkpointing
    assert all(type(layer) is not LoraLinear for layer in policy.layers)
    (loss, mine), (expected, theirs) = gradients(policy.model), gradients(as_peft(plain).model)
    torch.testing.assert_close(loss, expected)
    assert mine.keys() == theirs.keys() and len(mine) == 2 * 2 * 12
    for name, gradient in mine.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_an_adapter_that_adds_nothing_leaves_the_bits_of_the_reference(make_network: MakeNetwork) -> None:
    policy = make_policy(make_network().train(), AdapterSettings(rank=2, alpha=3.0), seed=1)
    adapted = policy.model(*inputs())
    with policy.model.disable_adapter():
        reference = policy.model(*inputs())
    assert all(torch.equal(*parts) for parts in zip(adapted, reference, strict=True))
    assert any("_AdaptedLinear" in name for name in nodes_of(adapted.video))


def test_a_trained_base_layer_keeps_its_gradient(make_network: MakeNetwork) -> None:
    policy = trained(make_network, 1.0, torch.float32)
    base = next(layer.base_layer for layer in policy.layers)
    assert isinstance(base, nn.Linear)
    base.weight.requires_grad_(True)
    gradients(policy.model)
    mine = present(base.weight.grad).clone()
    base.weight.grad = None
    gradients(as_peft(policy).model)
    torch.testing.assert_close(mine, present(base.weight.grad), rtol=1e-4, atol=1e-7)


def test_a_bfloat16_network_keeps_its_activations_in_bfloat16(make_network: MakeNetwork) -> None:
    policy, plain = (trained(make_network, 1.0, torch.bfloat16) for _ in range(2))
    mine, theirs = kept_bytes(policy.model), kept_bytes(as_peft(plain).model)
    assert mine < 0.75 * theirs
    own, expected = gradients(policy.model)[1], gradients(plain.model)[1]
    for name, gradient in own.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected[name], rtol=5e-2, atol=5e-4, msg=name)


def test_the_output_of_a_gelu_is_not_kept(make_network: MakeNetwork) -> None:
    """In float32 the only difference is the hidden values of both feed-forward networks, which PEFT keeps twice."""
    policy, plain = (trained(make_network, 1.0, torch.float32) for _ in range(2))
    network = network_of(policy)
    grid = network.token_grid(inputs()[0])
    hidden = 2 * (grid.num_video + grid.num_audio) * network.config.ffn_dim * 4
    assert kept_bytes(as_peft(plain).model) - kept_bytes(policy.model) == network.config.num_layers * hidden
