"""Transformer blocks of JavisDiT++: attention shared by video and audio tokens, one feed-forward network per modality.

Parameter names are those of the original checkpoints (Wan2.1 for the base). Norms, modulation and the residual stream
run in the parameters' dtype; rotations run in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avpref.models.positions import rotate
from avpref.models.text_padding import Context

EPS = 1e-6
PIECE_TOKENS = 512
WIDE_VALUES = 4 * 2**20
"""Number of hidden values above which a feed-forward network runs in pieces on a CPU: 16 MB in float32."""


class Modulation(NamedTuple):
    """Conditioning of all blocks, in the parameters' dtype: one row per sample, or one per latent frame of the sequence.

    ``base`` [B, F, 6, d]: shift, scale, gate of the attention, then of the base feed-forward. ``audio`` [B, F, 3, d]:
    those of the audio feed-forward, None for a network without one. ``frames`` [N]: the row (0..F-1) of each token; None if F
    is 1 and all tokens use that row.
    """

    base: Tensor
    audio: Tensor | None
    frames: Tensor | None


def rows_for_tokens(rows: Tensor, frames: Tensor | None) -> Tensor:
    """Rows [B, N, d] of the tokens, selected from ``rows`` [B, F, d] by ``frames`` [N]; ``rows`` itself if that is None."""
    return rows if frames is None else rows.index_select(1, frames)


def split_frames(frames: Tensor | None, num_video: int) -> tuple[Tensor | None, Tensor | None]:
    """The parts of ``frames`` [N] for the video tokens and for the audio tokens."""
    return (None, None) if frames is None else (frames[:num_video], frames[num_video:])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift for x [B, N, d] and shift, scale [B, 1, d] or [B, N, d]."""
    return torch.addcmul(shift, x, 1 + scale)


@runtime_checkable
class AfterGelu(Protocol):
    """A linear layer that can do without keeping its input for the backward pass where that is the GELU of something."""

    def after_gelu(self, hidden: Tensor) -> Tensor:
        """The layer on the GELU (tanh form) of ``hidden`` [..., in]; values as of the two in turn."""
        ...


class FeedForward(nn.Sequential):
    """Linear from ``width`` to ``hidden``, GELU (tanh form), Linear to ``dim``; the layers are called 0 and 2.

    In evaluation mode on a CPU without compilation, wide hidden values are computed in pieces, which keeps them in caches and avoids
    new memory for every layer. Sums may round differently, so training mode never splits, with or without gradients: policy and
    reference must agree bitwise.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, width] -> [B, N, dim]."""
        if torch.compiler.is_compiling():
            return super().forward(x)
        if self.training and isinstance(self[2], AfterGelu):
            return self[2].after_gelu(self[0](x))
        if self.training or x.device.type != "cpu" or not self._is_wide(x):
            return super().forward(x)
        pieces = x.flatten(0, 1).split(PIECE_TOKENS)
        return torch.cat([*map(super().forward, pieces)]).unflatten(0, x.shape[:2])

    def _is_wide(self, x: Tensor) -> bool:
        return x.shape[0] * x.shape[1] * self.hidden > WIDE_VALUES


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) over the last dimension, in float32, then times a weight in the parameters' dtype."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., d] -> [..., d], same dtype."""
        exact = x.float()
        mean_square = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square() / x.shape[-1]
        return (exact * torch.rsqrt(mean_square + EPS)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Projections q, k, v, o with RMS norms of q and k over the full width; subclasses define queries and keys."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(dim) if qk_norm else nn.Identity()

    def heads(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, heads, d / heads], a view."""
        return x.unflatten(-1, (self.num_heads, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax attention, scale 1 / sqrt(c): q [B, N, heads, c], k and v [B, M, heads, c] -> [B, N, heads * c].

        ``mask`` [N, M]: True where a query may attend to a key; or [B, 1, 1, M] in the dtype of q: added to the logits; none: no change.
        """
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
        return self.o(mixed.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    """All video and audio tokens attend to each other; q and k are rotated by their positions."""

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """x [B, N, d], rotary table float32 [N, 1, head size / 2, 2] -> [B, N, d]."""
        q = rotate(self.heads(self.norm_q(self.q(x))), rotary)
        k = rotate(self.heads(self.norm_k(self.k(x))), rotary)
        return self.attend(q, k, self.heads(self.v(x)))


class CrossAttention(Attention):
    """Tokens attend to all text positions including padding: the original has no key mask and its weights rely on that.

    A mask that merges the padding keeps the results; see :mod:`avpref.models.text_padding`.
    """

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, d], context [B, L, d] -> [B, N, d]; ``mask``: see :meth:`attend`."""
        q = self.heads(self.norm_q(self.q(x)))
        k = self.heads(self.norm_k(self.k(context)))
        return self.attend(q, k, self.heads(self.v(context)), mask)


class AudioModulation(nn.Module):
    """Learned rows [1, 3, d] (shift, scale, gate) of the audio feed-forward; the key is ``audio_modulation.param``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.param = nn.Parameter(torch.randn(1, 3, dim) / math.sqrt(dim))


class Block(nn.Module):
    """One block: modulated self-attention, cross-attention to text, then the feed-forward network(s).

    ``has_base`` builds ``ffn``, ``has_audio`` builds ``audio_ffn``. With both, each modality uses its own; with one of
    them, all tokens use that one. ``synchroniser`` is a layer (x, inputs) -> x between the attention to the text and the feed-forward
    network; see :mod:`avpref.models.synchronisers.added_attention`.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        *,
        qk_norm: bool,
        cross_attn_norm: bool,
        has_base: bool,
        has_audio: bool,
        synchroniser: nn.Module | None = None,
    ) -> None:
        super().__init__()
        assert has_base or has_audio, "a block needs a feed-forward network"
        self.norm1 = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)
        self.self_attn = SelfAttention(dim, num_heads, qk_norm)
        self.norm3 = nn.LayerNorm(dim, eps=EPS) if cross_attn_norm else nn.Identity()
        self.cross_attn = CrossAttention(dim, num_heads, qk_norm)
        self.synchroniser = synchroniser
        self.norm2 = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)
        self.ffn = FeedForward(dim, ffn_dim, dim) if has_base else None
        self.audio_ffn = FeedForward(dim, ffn_dim, dim) if has_audio else None
        self.audio_modulation = AudioModulation(dim) if has_audio else None
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / math.sqrt(dim))

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        context: Context,
        rotary: Tensor,
        num_video: int,
        added: tuple[object, ...] | None = None,
    ) -> Tensor:
        """x [B, N, d] with the video tokens first -> [B, N, d]; ``added``: inputs of the synchroniser."""
        frames = modulation.frames
        rows = (self.modulation + modulation.base).unbind(2)
        shift, scale, gate = (rows_for_tokens(row, frames) for row in rows[:3])
        x = torch.addcmul(x, self.self_attn(modulate(self.norm1(x), shift, scale), rotary), gate)
        x = x + self.cross_attn(self.norm3(x), context.states, context.bias)
        if self.synchroniser is not None:
            x = self.synchroniser(x, added)
        if self.audio_ffn is None:
            return self._feed_base(x, rows[3:], frames)
        if self.ffn is None:
            return self._feed_audio(x, modulation.audio, frames)
        video, audio = x.split((num_video, x.shape[1] - num_video), dim=1)
        video_frames, audio_frames = split_frames(frames, num_video)
        video = self._feed_base(video, rows[3:], video_frames)
        return torch.cat([video, self._feed_audio(audio, modulation.audio, audio_frames)], dim=1)

    def _feed_base(self, x: Tensor, rows: tuple[Tensor, ...], frames: Tensor | None) -> Tensor:
        assert self.ffn is not None
        shift, scale, gate = (rows_for_tokens(row, frames) for row in rows)
        return torch.addcmul(x, self.ffn(modulate(self.norm2(x), shift, scale)), gate)

    def _feed_audio(self, x: Tensor, audio_rows: Tensor | None, frames: Tensor | None) -> Tensor:
        assert self.audio_ffn is not None and self.audio_modulation is not None and audio_rows is not None
        rows = (self.audio_modulation.param + audio_rows).unbind(2)
        shift, scale, gate = (rows_for_tokens(row, frames) for row in rows)
        return torch.addcmul(x, self.audio_ffn(modulate(self.norm2(x), shift, scale)), gate)
