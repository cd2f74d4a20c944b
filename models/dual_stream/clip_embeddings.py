"""Embeddings of clips that the prior is compared with in training: tokens of video and audio, their merge, and the discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avpref.models.dual_stream.stream_attention import MutualAttention, SelfAttention
from avpref.models.dual_stream.stream_blocks import norm
from avpref.models.dual_stream.stream_embeddings import FeedForward, frequency_positions, grid_positions


def clip_tokens(
    patches: Tensor,
    num_spatial: int,
    num_temporal: int,
    size_px: tuple[float, float] | None = None,
    nominal_px: int = 512,
) -> tuple[Tensor, Tensor]:
    """Positioned tokens, interpolated along space to ``num_spatial`` and along time to ``num_temporal``.

    ``patches`` are [B, T, H, W, c] of video, with the size of its pictures, or [B, R, M, c] of audio. Gives [B, T, num_spatial, c] and
    [B, num_temporal, S, c], S = H · W or M.
    """
    dim = patches.shape[-1]
    if size_px is not None:
        positions = grid_positions(dim, (patches.shape[2], patches.shape[3]), size_px, nominal_px)
        tokens = patches.flatten(2, 3)
    else:
        positions, tokens = frequency_positions(dim, patches.shape[2]), patches
    tokens = tokens + positions.to(tokens)
    temporal = _interpolated(tokens.transpose(1, 2), num_temporal).transpose(1, 2)
    return _interpolated(tokens, num_spatial), temporal


def _interpolated(tokens: Tensor, num: int) -> Tensor:
    """Linear interpolation of [B, F, P, c] along P to ``num`` places (half-pixel centres)."""
    flat = tokens.flatten(0, 1).transpose(1, 2)
    stretched = F.interpolate(flat, num, mode="linear", align_corners=False).transpose(1, 2)
    return stretched.unflatten(0, tokens.shape[:2])


class MergeBlock(nn.Module):
    """Video and audio vectors of each group see each other; their means are added; feed-forward with a residual."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.cross_attn = MutualAttention(dim, dim, num_heads)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), dim)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """video [B, K, N, c] and audio [B, K, R, c], K groups → [B, K, c]."""
        groups = video.flatten(0, 1), audio.flatten(0, 1)
        of_video, of_audio = self.cross_attn(norm(groups[0]), norm(groups[1]))
        merged = (groups[0] + of_video).mean(dim=1) + (groups[1] + of_audio).mean(dim=1)
        merged = merged + self.mlp(norm(merged))
        return merged.unflatten(0, video.shape[:2])


class Discriminator(nn.Module):
    """A logit that prior tokens belong to the embedding of a clip, from one self-attention over both."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.attn = SelfAttention(dim, num_heads)
        self.classifier = nn.Linear(dim, 1)

    def forward(self, prior: Tensor, embedding: Tensor) -> Tensor:
        """Prior and embedding [B, K, c] → logits [B]."""
        tokens = torch.cat([self.cls_token.expand(len(prior), -1, -1), prior, embedding], dim=1)
        out: Tensor = self.classifier(self.attn(tokens)[:, 0]).squeeze(-1)
        return out
