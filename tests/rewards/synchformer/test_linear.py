"""Packed products give what plain ones give, up to rounding, and are made only where they can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avpref.rewards.synchformer.linear import FusedLinear, PackedLinear, can_pack, pack

SHAPES = [(1, 1, 1), (7, 16, 48), (197, 48, 16), (33, 130, 65)]


def made(inside: int, outside: int, seed: int) -> FusedLinear:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        found = FusedLinear(inside, outside)
        found.weight.copy_(torch.randn(outside, inside, generator=generator) / inside**0.5)
        found.bias.copy_(torch.randn(outside, generator=generator))
    return found


@pytest.mark.parametrize(("rows", "inside", "outside"), SHAPES)
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 5)])
def test_packed_and_plain_agree(rows: int, inside: int, outside: int, batch: tuple[int, ...]) -> None:
    plain, generator = made(inside, outside, rows), torch.Generator().manual_seed(outside)
    packed = PackedLinear(plain, rows)
    inputs = torch.randn(*batch, rows, inside, generator=generator)
    stream = torch.randn(*batch, rows, outside, generator=generator)
    before = stream.clone()
    with torch.inference_mode():
        torch.testing.assert_close(packed(inputs), plain(inputs), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed.gelu(inputs), plain.gelu(inputs), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed.add_to(inputs, stream), plain.add_to(inputs, stream), rtol=1e-5, atol=1e-5)
    assert torch.equal(stream, before), "the stream is read, not written"


def test_only_fused_linear_layers_are_packed() -> None:
    network = nn.ModuleDict({"deep": nn.Sequential(made(4, 8, 0), nn.ReLU(), made(8, 2, 1)), "plain": nn.Linear(2, 2)})
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network["plain"](network["deep"](inputs))
        pack(network, 3)
        torch.testing.assert_close(network["plain"](network["deep"](inputs)), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(each, FusedLinear) for each in network.modules())
    assert sum(isinstance(each, PackedLinear) for each in network.modules()) == 2
    assert isinstance(network["plain"], nn.Linear)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_and_devices_stay_plain(dtype: torch.dtype) -> None:
    network = nn.Sequential(made(4, 4, 0).to(dtype))
    pack(network, 3)
    assert isinstance(network[0], FusedLinear)
    assert not can_pack(torch.empty(2, 2, device="meta"))
    assert can_pack(torch.empty(2, 2)) == torch.backends.mkldnn.is_available()
