"""Embeddings of the dual-stream network: patches, positions, time, captions. See docs/decisions/0059-javisdit-v01-as-modules.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PERIOD = 10000.0
TIME_CHANNELS = 256
NULL_SEED = 0


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear under the names fc1 and fc2."""

    def __init__(self, dim: int, hidden: int, output: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, output)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] → [..., output]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class PatchEmbedding(nn.Module):
    """Non-overlapping patches as tokens: Conv3d of video [B, C, T, h, w] or Conv2d of audio [B, C, L, M], zero-padded at the ends."""

    def __init__(self, channels: int, dim: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.proj: nn.Conv2d | nn.Conv3d
        match self.patch:
            case (frames, height, width):
                self.proj = nn.Conv3d(channels, dim, (frames, height, width), (frames, height, width))
            case (steps, bands):
                self.proj = nn.Conv2d(channels, dim, (steps, bands), (steps, bands))
            case _:
                raise ValueError(f"patches of 2 or 3 sizes, found {self.patch}")

    def forward(self, x: Tensor) -> Tensor:
        """Tokens with their grid, channels last: [B, T, H, W, d] or [B, R, M, d]."""
        sizes = x.shape[2:]
        padding = [
            amount for size, step in zip(sizes[::-1], self.patch[::-1], strict=True) for amount in (0, -size % step)
        ]
        return self.proj(F.pad(x, padding)).movedim(1, -1)


def unpatched(tokens: Tensor, patch: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Latents [B, C, *sizes] of tokens [B, *grid, prod(patch) · C], channels fastest within a token; padding is cut."""
    grid, rank = tokens.shape[1:-1], len(patch)
    cells = tokens.unflatten(-1, (*patch, -1))
    order = [0, 2 * rank + 1, *(axis for place in range(rank) for axis in (1 + place, 1 + rank + place))]
    merged = cells.permute(order).reshape(
        len(tokens), cells.shape[-1], *(count * step for count, step in zip(grid, patch, strict=True))
    )
    return merged[(..., *(slice(size) for size in sizes))]


def sinusoid(positions: Tensor, num: int, exponent: float) -> Tensor:
    """[sin | cos] of ``positions`` [...] times 10000^(−exponent · k), k < ``num``; float32 [..., 2 · num]."""
    frequencies = PERIOD ** (-exponent * torch.arange(num, dtype=torch.float32, device=positions.device))
    angles = positions.float()[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_positions(dim: int, grid: tuple[int, int], size_px: tuple[float, float], nominal_px: int) -> Tensor:
    """Positions of the H · W tokens of a frame, float32 [H · W, dim]: first those along the width, then along the height.

    Coordinates are scaled to a square grid of the same number of tokens, times nominal size / size of the picture.
    """
    height, width = grid
    base = round(math.sqrt(height * width))
    scale = math.sqrt(size_px[0] * size_px[1]) / nominal_px
    rows = torch.arange(height, dtype=torch.float32) / scale * base / height
    columns = torch.arange(width, dtype=torch.float32) / scale * base / width
    quarter = dim // 4
    down, across = (sinusoid(axis, quarter, 2.0 / (dim / 2)) for axis in (rows, columns))
    cells = torch.cat([across[None].expand(height, -1, -1), down[:, None].expand(-1, width, -1)], dim=-1)
    return cells.reshape(height * width, dim)


def frequency_positions(dim: int, num_bands: int) -> Tensor:
    """Positions of the frequency rows of an audio step, float32 [num_bands, dim]; the step of the exponent is not doubled."""
    return sinusoid(torch.arange(num_bands, dtype=torch.float32), dim // 2, 1.0 / (dim / 2))


class ScalarEmbedding(nn.Module):
    """Embedding of a number per row, such as the time 0 to 1000 or frames per second: [cos | sin] in float32, then an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_CHANNELS, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, values: Tensor) -> Tensor:
        """[B] → [B, d]."""
        waves = sinusoid(values, TIME_CHANNELS // 2, 2.0 / TIME_CHANNELS).roll(TIME_CHANNELS // 2, dims=-1)
        out: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return out


class CaptionEmbedding(nn.Module):
    """MLP of text states or prior tokens, and the fixed states that stand for none (a buffer, drawn once and never trained)."""

    y_embedding: Tensor

    def __init__(self, channels: int, dim: int, num_tokens: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(NULL_SEED)
        null = torch.randn(num_tokens, channels, generator=generator, device="cpu") / math.sqrt(channels)
        self.register_buffer("y_embedding", null.to(torch.get_default_device()))
        self.y_proj = FeedForward(channels, dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """[B, N, channels] → [B, N, d]."""
        out: Tensor = self.y_proj(states)
        return out
