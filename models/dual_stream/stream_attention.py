"""Attentions of the dual-stream network, all with softmax scale 1 / sqrt(head size)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avpref.models.dual_stream.stream_embeddings import PERIOD

EPS = 1e-6


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of queries [B, N, d] over keys and values [B, K, d], merged heads [B, N, d]; ``mask`` [B, K]: True where allowed."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    allowed = None if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)


class HeadNorm(nn.Module):
    """RMSNorm of the last axis in float32, with a weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype) * self.weight


class RotaryEmbedding(nn.Module):
    """Rotation of adjacent pairs by position · 10000^(−2k / head size). The frequencies are a parameter of released files."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(PERIOD ** (-torch.arange(0, head_dim, 2).float() / head_dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, heads, size] with positions 0 to N − 1."""
        positions = torch.arange(x.shape[1], device=x.device, dtype=self.freqs.dtype)
        angles = (positions[:, None] * self.freqs)[None, :, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        cos, sin = angles.cos(), angles.sin()
        rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
        return rotated.flatten(-2).to(x.dtype)


class SelfAttention(nn.Module):
    """Self-attention with one product for q, k and v, and norms of q and k per head; rotated where positions are given."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = HeadNorm(dim // num_heads), HeadNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: RotaryEmbedding | None = None) -> Tensor:
        """x [B, N, d]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        out: Tensor = self.proj(attend(q.flatten(2), k.flatten(2), v.flatten(2), self.num_heads))
        return out


class ContextAttention(nn.Module):
    """Cross-attention to a context (text or priors), without norms of q and k."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, d], context [B or 1, K, d] (one for all rows), mask [B, K]."""
        k, v = self.kv_linear(context.expand(len(x), -1, -1)).chunk(2, dim=-1)
        out: Tensor = self.proj(attend(self.q_linear(x), k, v, self.num_heads, mask))
        return out


class MutualAttention(nn.Module):
    """Attention between two sets of tokens in both directions, with one matrix of logits and a softmax along either axis."""

    def __init__(self, dim: int, inner: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.m1_proj, self.m2_proj = nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.values_m1_proj, self.values_m2_proj = nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.out_m1_proj, self.out_m2_proj = nn.Linear(inner, dim), nn.Linear(inner, dim)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Updates of ``first`` [B, N, d] and ``second`` [B, K, d], in their shapes."""
        q, k = self.m1_proj(first), self.m2_proj(second)
        of_first = attend(q, k, self.values_m2_proj(second), self.num_heads)
        of_second = attend(k, q, self.values_m1_proj(first), self.num_heads)
        return self.out_m1_proj(of_first), self.out_m2_proj(of_second)
