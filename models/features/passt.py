"""PaSST, the network of FD-PaSST, its inception score and KL: 32 kHz sound, 10 s → 527 logits and 768 features.

Tensor names of ``passt_s_swa_p16_128_ap476`` in hear21passt. Source: Koutini et al. 2022.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avpref.media.sound.mel_filters import log_scale_filters
from avpref.models.features.cnn14 import NUM_CLASSES, TagsAndFeatures

RATE_HZ = 32000
NUM_SAMPLES = 10 * RATE_HZ
"""Sound is cut or padded with zeros to 10 s, which is part of the metric."""
FFT_SAMPLES, WINDOW_SAMPLES, HOP_SAMPLES = 1024, 800, 320
NUM_MELS, HIGH_HZ = 128, 15000.0
PREEMPHASIS = 0.97
LOG_OFFSET, SHIFT, SCALE = 1e-5, 4.5, 5.0
DIM, DEPTH, HEADS, PATCH, STRIDE = 768, 12, 12, 16, 10
ROWS, COLUMNS = 12, 99
BLOCK_EPS, HEAD_EPS = 1e-6, 1e-5


class PasstSizes(NamedTuple):
    """Width, number of blocks and of heads."""

    dim: int = DIM
    depth: int = DEPTH
    heads: int = HEADS


FULL = PasstSizes()
TINY = PasstSizes(24, 1, 2)
"""Sizes as published, and of small networks for tests and dry runs."""


class Passt(nn.Module):
    """Log-mel image float32 [B, 128, F] of :func:`log_mel` → logits [B, 527] and features [B, 768]."""

    def __init__(self, sizes: PasstSizes = FULL) -> None:
        super().__init__()
        dim = sizes.dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, dim, ROWS, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, COLUMNS))
        self.patch_embed = _Patches(dim)
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.head = nn.Sequential(nn.LayerNorm(dim, eps=HEAD_EPS), nn.Linear(dim, NUM_CLASSES))
        self.head_dist = nn.Linear(dim, NUM_CLASSES)

    def forward(self, image: Tensor) -> TagsAndFeatures:
        """Logits and features; ``head_dist`` belongs to the released file and is not used."""
        patches = self.patch_embed.proj(image[:, None])
        patches = patches + self.time_new_pos_embed[..., : patches.shape[-1]] + self.freq_new_pos_embed
        batch = len(image)
        leading = torch.cat([self.cls_token, self.dist_token], 1) + self.new_pos_embed
        hidden = torch.cat([leading.expand(batch, -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        for block in self.blocks:
            hidden = block(hidden)
        features = self.norm(hidden)[:, :2].mean(1)
        return TagsAndFeatures(self.head(features), features)


class _Patches(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, PATCH, STRIDE)


class _Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, sizes: PasstSizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=BLOCK_EPS), nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.attn, self.mlp = _Attention(dim, sizes.heads), _FeedForward(dim)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.qkv(hidden).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(hidden)))


def padded_sound(sound: Tensor) -> Tensor:
    """[..., S] at 32 kHz → [..., 320000]: cut, or zeros behind."""
    return functional.pad(sound, (0, NUM_SAMPLES - sound.shape[-1]))


def log_mel(sound: Tensor) -> Tensor:
    """[B, S] at 32 kHz without its mean → [B, 128, F], F = 1 + (S − 1) // 320: 1000 for 10 s."""
    emphasised = sound[:, 1:] - PREEMPHASIS * sound[:, :-1]
    window = torch.hann_window(WINDOW_SAMPLES, periodic=False, device=sound.device)
    spectrum = torch.stft(
        emphasised, FFT_SAMPLES, HOP_SAMPLES, WINDOW_SAMPLES, window, center=True, return_complex=True
    )
    power = spectrum.real**2 + spectrum.imag**2
    filters = log_scale_filters(RATE_HZ, FFT_SAMPLES, NUM_MELS, 0.0, HIGH_HZ)
    filters[:, -1] = 0
    mel = torch.from_numpy(filters.astype(np.float32)).to(power) @ power
    return (torch.log(mel + LOG_OFFSET) + SHIFT) / SCALE
