"""Floating point operations of a forward pass of the network."""

from __future__ import annotations

from typing import Protocol


class NetworkSizes(Protocol):
    """The sizes that the operations depend on; the network's configuration and its section both have them."""

    @property
    def dim(self) -> int:
        """Width of the residual stream."""

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward networks."""

    @property
    def num_layers(self) -> int:
        """Blocks."""

    @property
    def text_len(self) -> int:
        """Text positions."""


def forward_flop(num_tokens: int, network: NetworkSizes) -> float:
    """Floating point operations of one forward pass of one row: matrix products of the blocks, two operations per multiplication.

    Per block and token: four square matrices of self-attention, two of cross-attention, the feed-forward layers, and the products of
    both attentions. Per block: keys and values of the text.
    """
    dim, text = network.dim, network.text_len
    per_token = 6 * dim**2 + 2 * dim * network.ffn_dim + 2 * dim * (num_tokens + text)
    return 2.0 * network.num_layers * (num_tokens * per_token + 2 * text * dim**2)
