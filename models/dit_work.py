"""Tokens and floating point operations of the JavisDiT++ network, from its sizes alone."""

from __future__ import annotations

import math

from avpref.config.network_settings import NetworkSettings
from avpref.models.flow import LatentShapes
from avpref.models.synchronisers.synchroniser import Synchroniser


def num_tokens(shapes: LatentShapes, network: NetworkSettings) -> int:
    """Video and audio tokens of one clip, of the modalities that it has."""
    parts = (shapes.video, network.patch_size), (shapes.audio, network.audio_patch_size)
    return sum(
        math.prod(size // step for size, step in zip(shape[1:], patch, strict=True))
        for shape, patch in parts
        if shape is not None
    )


def forward_flop(num_tokens: int, network: NetworkSettings) -> float:
    """Floating point operations of one forward pass of one row: matrix products of the blocks, two operations per multiplication.

    Per block and token: four square matrices of self-attention, two of cross-attention, the feed-forward layers, four of an added
    synchroniser, and the products of the attentions. Per block: keys and values of the text and of prior tokens. The products of
    frame attention, which depend on the division into video and audio, are left out. All positions of a text count, as the original
    computes them, although the network attends to its padding once.
    """
    dim, context = network.dim, network.text_len + _num_priors(network)
    synchroniser = 4 * dim**2 if Synchroniser(network.synchroniser).adds_layers else 0
    per_token = 6 * dim**2 + 2 * dim * network.ffn_dim + synchroniser
    other = 2.0 * network.num_layers * (num_tokens * per_token + 2 * context * dim**2)
    return other + attention_flop(num_tokens, network)


def attention_flop(num_tokens: int, network: NetworkSettings) -> float:
    """The share of :func:`forward_flop` of the products of the attentions."""
    context = network.text_len + _num_priors(network)
    return 4.0 * network.num_layers * num_tokens * network.dim * (num_tokens + context)


def _num_priors(network: NetworkSettings) -> int:
    return 0 if network.prior is None else network.prior.spatial_tokens + network.prior.temporal_tokens
