"""Tokens and floating point operations of the dual-stream network, from its sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

from avpref.models.dual_stream.dual_config import DualStreamConfig, PriorInjection
from avpref.models.flow import LatentShapes

OPERATIONS = 2
"""Of one multiplication and addition."""


@dataclass(frozen=True)
class StreamSizes:
    """Tokens of one stream: ``frames`` (or audio steps) of ``places`` (or frequency rows) each."""

    frames: int
    places: int

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.frames * self.places

    @property
    def products(self) -> int:
        """Pairs of queries and keys in the spatial and in the temporal self-attention."""
        return self.tokens * (self.places + self.frames)


def stream_sizes(shapes: LatentShapes, config: DualStreamConfig) -> tuple[StreamSizes, StreamSizes]:
    """Sizes of the video and the audio stream; latents that are no whole number of patches are padded."""
    assert shapes.video is not None and shapes.audio is not None
    frames, height, width = _patches(shapes.video[1:], config.patch_size)
    steps, bands = _patches(shapes.audio[1:], config.audio_patch_size)
    return StreamSizes(frames, height * width), StreamSizes(steps, bands)


def forward_flop(video: StreamSizes, audio: StreamSizes, config: DualStreamConfig) -> float:
    """Floating point operations of one forward pass of one row: matrix products of the blocks, two per multiplication."""
    dim, inner = config.hidden_size, config.mlp_dim
    tokens, text = video.tokens + audio.tokens, config.model_max_length
    of_self = 2 * (tokens * (6 * dim**2 + 2 * dim * inner) + 2 * 2 * text * dim**2)
    of_bridge = tokens * 3 * dim * (dim // 2)
    total = config.depth * (of_self + _prior_products(video, audio, config) + of_bridge)
    return float(OPERATIONS * total) + attention_flop(video, audio, config)


def attention_flop(video: StreamSizes, audio: StreamSizes, config: DualStreamConfig) -> float:
    """The share of :func:`forward_flop` of the products of queries, keys and values."""
    tokens = video.tokens + audio.tokens
    pairs = video.products + audio.products + 2 * tokens * config.model_max_length + video.tokens * audio.tokens
    if config.injection == PriorInjection.CROSS_ATTN:
        pairs += tokens * config.num_priors
    return float(OPERATIONS * config.depth * 2 * pairs * config.hidden_size)


def _prior_products(video: StreamSizes, audio: StreamSizes, config: DualStreamConfig) -> int:
    """Multiplications of the linear layers of both prior blocks."""
    dim, tokens = config.hidden_size, video.tokens + audio.tokens
    feed_forward = tokens * 2 * dim * config.mlp_dim
    if config.injection == PriorInjection.CROSS_ATTN:
        return feed_forward + tokens * 4 * dim**2 + 2 * config.num_priors * 2 * dim**2
    width = 2 if config.injection == PriorInjection.MODULATE else 1
    stretched = video.frames + video.places + audio.frames + audio.places
    return feed_forward + stretched * width * dim**2


def _patches(sizes: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // step) for size, step in zip(sizes, patch, strict=True))
