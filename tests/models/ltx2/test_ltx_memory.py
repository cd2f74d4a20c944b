"""Savings of memory on LTX-2: checkpointing changes no gradient, and an adapter trains over weights of eight bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from tiny_ltx import AUDIO, VIDEO, tiny_transformer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from avpref.config.training_settings import AdapterSettings, CheckpointingMode
from avpref.models.flow import Latents
from avpref.models.ltx2.ltx_components import video_text_dim
from avpref.models.ltx2.ltx_network import LtxConvention, LtxNetwork
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.trainer.adapters import Policy, factors, make_policy
from avpref.trainer.scaling.base_dtype import BaseDtype

VERSIONS = [LtxVersion.V2_3, *(pytest.param(v, marks=pytest.mark.slow) for v in LtxVersion if v != "2.3")]


def policy_of(version: LtxVersion, dtype: BaseDtype = "float32") -> tuple[Policy, LtxNetwork]:
    """The tiny network with an adapter; B is random, so that both factors have gradients."""
    transformer = tiny_transformer(version).train()
    network = LtxNetwork(transformer, video_text_dim(transformer.config), LtxConvention.of(version, "diffusers"))
    policy = make_policy(network, AdapterSettings(rank=2, alpha=4), 1, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in policy.layers:
            up = factors(layer, "policy")[1]
            up.copy_(0.1 * torch.randn(up.shape, generator=generator))
    return policy, network


def gradient(policy: Policy, version: LtxVersion) -> Tensor:
    """Gradients of all factors in one vector."""
    generator = torch.Generator().manual_seed(4)
    video = torch.randn(2, 128, 2, 2, 2, generator=generator)
    latents = Latents(video, torch.randn(2, 8, 7, 16, generator=generator))
    width = 32 if version is LtxVersion.V2_0 else VIDEO + AUDIO
    text = torch.randn(2, 16, width, generator=generator)
    velocity = policy.model(latents, torch.tensor([0.3, 0.9]), text, torch.ones(2, 16))
    (velocity.video.square().mean() + velocity.audio.square().mean()).backward()
    gradients = [factor.grad for layer in policy.layers for factor in factors(layer, "policy")]
    return torch.cat([part.flatten().float() for part in gradients if part is not None])


def always(mode: CheckpointingMode) -> Callable[[int], CheckpointingMode]:
    """``mode`` for every number of tokens."""
    return lambda num_tokens: mode


@pytest.mark.parametrize("version", VERSIONS)
def test_checkpointing_changes_no_gradient(version: LtxVersion) -> None:
    gradients = {}
    modes: tuple[CheckpointingMode, ...] = ("none", "selective", "full")
    for mode in modes:
        policy, network = policy_of(version)
        network.checkpointing = always(mode)
        gradients[mode] = gradient(policy, version)
    assert gradients["none"].abs().max() > 0
    for mode in ("selective", "full"):
        torch.testing.assert_close(gradients[mode], gradients["none"], rtol=1e-6, atol=1e-9)


def test_selective_checkpointing_computes_more_again_than_none_and_less_than_full() -> None:
    """Floating point operations of forward and backward pass together."""
    operations: dict[str, int] = {}
    modes: tuple[CheckpointingMode, ...] = ("none", "selective", "full")
    for mode in modes:
        policy, network = policy_of(LtxVersion.V2_3)
        network.checkpointing = always(mode)
        with FlopCounterMode(display=False) as counter:
            gradient(policy, LtxVersion.V2_3)
        operations[mode] = counter.get_total_flops()
    assert operations["none"] < operations["selective"] < operations["full"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["int8", "float8"])
def test_an_adapter_trains_over_a_base_of_eight_bits(dtype: Literal["int8", "float8"]) -> None:
    pytest.importorskip("torchao")
    dtypes: tuple[BaseDtype, ...] = (dtype, "bfloat16")
    policies = [policy_of(LtxVersion.V2_3, name)[0] for name in dtypes]
    quantised, plain = (gradient(policy, LtxVersion.V2_3) for policy in policies)
    assert torch.nn.functional.cosine_similarity(quantised, plain, dim=0) > 0.95
    sizes = [weight_bytes(policy) for policy in policies]
    assert sizes[0] < 0.75 * sizes[1]


def weight_bytes(policy: Policy) -> int:
    """Bytes of the weights of the adapted linear layers."""
    return sum(_bytes(layer.get_base_layer().weight) for layer in policy.layers)


def _bytes(weight: Any) -> int:
    parts = getattr(weight, "__tensor_flatten__", None)
    if parts is None or type(weight) in (Tensor, torch.nn.Parameter):
        return int(weight.numel() * weight.element_size())
    return sum(_bytes(getattr(weight, name)) for name in parts()[0])
