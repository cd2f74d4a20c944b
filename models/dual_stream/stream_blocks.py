"""Blocks of the dual-stream network. Tokens are [B, F, P, d]: F frames or audio steps, P places or frequency rows of each.

Modulation rows are [B, F or 1, rows, d]; a frame whose latents are known has those of time 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avpref.models.dual_stream.dual_config import DualStreamConfig, PriorInjection
from avpref.models.dual_stream.stream_attention import (
    EPS,
    ContextAttention,
    MutualAttention,
    RotaryEmbedding,
    SelfAttention,
)
from avpref.models.dual_stream.stream_embeddings import FeedForward


def norm(x: Tensor) -> Tensor:
    """LayerNorm of the last axis without parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift; rows [B, F or 1, d] for tokens [B, F, P, d]."""
    return norm(x) * (1 + scale[:, :, None]) + shift[:, :, None]


class SelfBlock(nn.Module):
    """Self-attention along one axis, cross-attention to the text (without norm, modulation and gate), feed-forward."""

    def __init__(self, config: DualStreamConfig, is_temporal: bool) -> None:
        super().__init__()
        dim = config.hidden_size
        self.is_temporal = is_temporal
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn = SelfAttention(dim, config.num_heads)
        self.cross_attn = ContextAttention(dim, config.num_heads)
        self.mlp = FeedForward(dim, config.mlp_dim, dim)

    def forward(self, x: Tensor, rows: Tensor, text: Tensor, mask: Tensor, rope: RotaryEmbedding) -> Tensor:
        """x [B, F, P, d], rows [B, F or 1, 6, d], text [B, N, d], mask [B, N]."""
        s1, c1, g1, s2, c2, g2 = (self.scale_shift_table + rows).unbind(2)
        x = x + g1[:, :, None] * self._attend(modulated(x, s1, c1), rope)
        x = x + self.cross_attn(x.flatten(1, 2), text, mask).view_as(x)
        return x + g2[:, :, None] * self.mlp(modulated(x, s2, c2))

    def _attend(self, x: Tensor, rope: RotaryEmbedding) -> Tensor:
        if not self.is_temporal:
            return self.attn(x.flatten(0, 1)).view_as(x)
        along = x.transpose(1, 2)
        return self.attn(along.flatten(0, 1), rope).view_as(along).transpose(1, 2)


class StretchedPriors(nn.Module):
    """Priors stretched to the tokens: scale and shift of them, or an addition (the variants of table 4).

    Token i of n has prior ⌊i · K / n⌋ of K.
    """

    def __init__(self, dim: int, is_modulation: bool) -> None:
        super().__init__()
        self.is_modulation = is_modulation
        self.proj = nn.Linear(dim, 2 * dim if is_modulation else dim)

    def forward(self, x: Tensor, priors: Tensor) -> Tensor:
        """x [B, F, P, d], of which the stretched axis is P; priors [B, K, d]."""
        num = x.shape[2]
        index = torch.arange(num, device=x.device) * priors.shape[1] // num
        stretched: Tensor = self.proj(priors[:, index])[:, None]
        if not self.is_modulation:
            return stretched.expand_as(x)
        shift, scale = stretched.chunk(2, dim=-1)
        return x * scale + shift


class PriorBlock(nn.Module):
    """Tokens and the spatial priors, then the temporal ones, then feed-forward; each modulated and gated."""

    def __init__(self, config: DualStreamConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.injection = config.injection
        self.scale_shift_table = nn.Parameter(torch.randn(9, dim) / dim**0.5)
        self.spatial_cross_attn = _injection_layer(config)
        self.temporal_cross_attn = _injection_layer(config)
        self.mlp = FeedForward(dim, config.mlp_dim, dim)

    def forward(self, x: Tensor, rows: Tensor, spatial: Tensor, temporal: Tensor) -> Tensor:
        """x [B, F, P, d], rows [B, F or 1, 9, d], priors [B or 1, K, d]."""
        s1, c1, g1, s2, c2, g2, s3, c3, g3 = (self.scale_shift_table + rows).unbind(2)
        x = x + g1[:, :, None] * self._inject(self.spatial_cross_attn, modulated(x, s1, c1), spatial)
        along = modulated(x, s2, c2).transpose(1, 2)
        x = x + g2[:, :, None] * self._inject(self.temporal_cross_attn, along, temporal).transpose(1, 2)
        return x + g3[:, :, None] * self.mlp(modulated(x, s3, c3))

    def _inject(self, layer: nn.Module, x: Tensor, priors: Tensor) -> Tensor:
        """The same context for all tokens of a row in cross-attention; otherwise stretched along the second token axis."""
        if self.injection == PriorInjection.CROSS_ATTN:
            return layer(x.flatten(1, 2), priors).view_as(x)
        out: Tensor = layer(x, priors)
        return out


def _injection_layer(config: DualStreamConfig) -> nn.Module:
    match config.injection:
        case PriorInjection.CROSS_ATTN:
            return ContextAttention(config.hidden_size, config.num_heads)
        case PriorInjection.MODULATE | PriorInjection.ADDITION as kind:
            return StretchedPriors(config.hidden_size, kind == PriorInjection.MODULATE)


class BridgeBlock(nn.Module):
    """Cross-attention between all video and all audio tokens of a row in both directions, gated per channel (zero at the start)."""

    def __init__(self, config: DualStreamConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.gamma_m1, self.gamma_m2 = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.cross_attn = MutualAttention(dim, dim // 2, config.num_heads // 2)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """video [B, T, S, d], audio [B, R, M, d], in their shapes."""
        of_video, of_audio = self.cross_attn(norm(video).flatten(1, 2), norm(audio).flatten(1, 2))
        return video + self.gamma_m1 * of_video.view_as(video), audio + self.gamma_m2 * of_audio.view_as(audio)


class FinalLayer(nn.Module):
    """Modulated norm and a linear layer. For known frames the rows of time 0 modulate what those of time t have modulated, as released."""

    def __init__(self, dim: int, output: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.linear = nn.Linear(dim, output)

    def forward(self, x: Tensor, time: Tensor, zero_time: Tensor | None, mask: Tensor | None) -> Tensor:
        """x [B, F, P, d], embeddings of time [B, d], mask [B, F]: True for frames to be generated."""
        x = modulated(x, *self._rows(time))
        if mask is not None:
            assert zero_time is not None
            x = torch.where(mask[:, :, None, None], x, modulated(x, *self._rows(zero_time)))
        out: Tensor = self.linear(x)
        return out

    def _rows(self, time: Tensor) -> tuple[Tensor, ...]:
        return (self.scale_shift_table + time[:, None])[:, None].unbind(2)
