"""The feed-forward network: taking a long sequence in pieces changes neither names, values nor gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avpref.models import blocks
from avpref.models.blocks import PIECE_TOKENS, FeedForward


@pytest.fixture(autouse=True)
def _everything_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WIDE_VALUES", 0)


@pytest.mark.parametrize("tokens", [1, PIECE_TOKENS // 2, PIECE_TOKENS // 2 + 1, 2 * PIECE_TOKENS + 3])
def test_pieces_equal_the_whole(tokens: int) -> None:
    generator = torch.Generator().manual_seed(2)
    network = FeedForward(6, 10, 4)
    whole = nn.Sequential(nn.Linear(6, 10), nn.GELU(approximate="tanh"), nn.Linear(10, 4))
    whole.load_state_dict(network.state_dict())
    x, weight = torch.randn(2, tokens, 6, generator=generator), torch.randn(2, tokens, 4, generator=generator)
    actual, wanted = network(x), whole(x)
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(network(x), whole(x))  # in training mode nothing is cut, with gradients or without
        torch.testing.assert_close(network.eval()(x), wanted, rtol=1e-5, atol=1e-6)
    for output in (actual, wanted):
        (output * weight).sum().backward()
    for mine, theirs in zip(network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_a_part_of_a_sequence_is_taken_as_it_is() -> None:
    """Audio tokens are a slice of the sequence: not contiguous."""
    network, x = FeedForward(6, 10, 4).eval(), torch.linspace(-1, 1, 2 * 700 * 6).view(2, 700, 6)
    with torch.no_grad():
        torch.testing.assert_close(network(x[:, 90:]), network(x)[:, 90:])
