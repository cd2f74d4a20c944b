"""Padding that is merged in the attention to the text: the network's values and gradients are those of all positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from avpref.models import text_padding
from avpref.models.dit import JavisDiT
from avpref.models.text_padding import NUM_SHARES, STEP, biases_of, merge_padding

LENGTH = 160


def mask_of(*lengths: int) -> Tensor:
    return (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).float()


def velocity_and_gradients(network: JavisDiT, inputs, text: Tensor, mask: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of all parameters."""
    network.zero_grad()
    outputs = [part for part in network(inputs.latents, inputs.t, text, mask) if part is not None]
    torch.stack([part.square().mean() for part in outputs]).sum().backward()
    return [part.detach() for part in outputs] + [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("lengths", [(3, 40, 0), (1, 1, 1), (91, 90, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_those_of_all_positions(
    make_network, make_inputs, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], training: bool
) -> None:
    network, inputs, mask = make_network(text_len=LENGTH).train(training), make_inputs(), mask_of(*lengths)
    text = torch.randn(3, LENGTH, inputs.text.shape[-1], generator=torch.Generator().manual_seed(4))
    assert merge_padding(text, mask)[0].shape[1] < LENGTH
    merged = velocity_and_gradients(network, inputs, text, mask)
    monkeypatch.setattr(text_padding, "STEP", LENGTH)
    whole = velocity_and_gradients(network, inputs, text, mask)
    assert len(merged) == len(whole) > 50
    for value, expected in zip(merged, whole, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=2e-6)


def test_padding_weighs_even_where_the_text_has_gaps(
    make_network, make_inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs, mask = make_network(text_len=LENGTH), make_inputs(), mask_of(30, 30, 30)
    mask[1, 4:9] = 0
    text = torch.randn(3, LENGTH, inputs.text.shape[-1], generator=torch.Generator().manual_seed(4))
    merged = network(inputs.latents, inputs.t, text, mask).video
    monkeypatch.setattr(text_padding, "STEP", LENGTH)
    torch.testing.assert_close(merged, network(inputs.latents, inputs.t, text, mask).video, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("longest", "kept"), [(0, 32), (27, 32), (28, 64), (60, 96), (123, 128)])
def test_kept_positions_are_a_multiple_that_holds_text_and_shares(longest: int, kept: int) -> None:
    text, mask, bias = merge_padding(torch.zeros(2, LENGTH, 1), mask_of(longest, 0))
    assert bias is not None and kept % STEP == 0
    assert (text.shape[1], mask.shape[1], bias.shape) == (kept, kept, (2, 1, 1, kept))
    weights = bias.double().exp().sum(-1).flatten()
    torch.testing.assert_close(weights, torch.full((2,), float(LENGTH), dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("longest", [124, 159, 160])
def test_a_long_text_stays_as_it_is(longest: int) -> None:
    text, mask = torch.zeros(1, LENGTH, 1), mask_of(longest)
    same_text, same_mask, bias = merge_padding(text, mask)
    assert same_text is text and same_mask is mask and bias is None


@pytest.mark.parametrize("count", [NUM_SHARES, 17, 452, 511, 4093])
def test_biases_weigh_as_the_count_and_are_exact_in_bfloat16(count: int) -> None:
    biases = biases_of(count)
    assert torch.tensor(biases, dtype=torch.float64).bfloat16().double().tolist() == list(biases)
    assert math.isclose(sum(map(math.exp, biases)), count, rel_tol=1e-6)


def test_bfloat16_differs_no_more_than_its_rounding(make_network, make_inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, mask = make_network(text_len=LENGTH).eval(), make_inputs(), mask_of(20, 4, 11)
    text = torch.randn(3, LENGTH, inputs.text.shape[-1], generator=torch.Generator().manual_seed(4))
    expected = network(inputs.latents, inputs.t, text, mask).video
    network.bfloat16()
    merged = network(inputs.latents, inputs.t, text, mask).video
    monkeypatch.setattr(text_padding, "STEP", LENGTH)
    whole = network(inputs.latents, inputs.t, text, mask).video
    assert (merged - expected).abs().mean() < 1.2 * (whole - expected).abs().mean()
