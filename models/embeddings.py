"""Embeddings of time and patches, and the output heads.

Time layers and output heads run in float32 regardless of the dtype of the weights, as in the original.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avpref.models.blocks import EPS, modulate, rows_for_tokens

TIMESTEP_SCALE = 1000.0
MAX_PERIOD = 10000.0


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32, even with half-precision weights or under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in], any floating type -> float32 [..., out]."""
        if x.is_meta:  # a device without autocast
            return F.linear(x.float(), self.weight.float(), self.bias.float())
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float(), self.bias.float())


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Features [cos | sin] of 1000 t 10000^(-j / half) for t [...] in [0, 1]: float32 [..., width], computed in float64."""
    half = width // 2
    frequencies = MAX_PERIOD ** -(torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angles = (t.double() * TIMESTEP_SCALE)[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


def patchify(latent: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Split [B, C, *sizes] into patches [B, tokens, C * prod(patch)]: tokens in grid order, the channel slowest within one."""
    grid = [size // step for size, step in zip(latent.shape[2:], patch, strict=True)]
    split = [piece for pair in zip(grid, patch, strict=True) for piece in pair]
    count = len(patch)
    cells = latent.reshape(*latent.shape[:2], *split)
    order = (0, *(2 + 2 * axis for axis in range(count)), 1, *(3 + 2 * axis for axis in range(count)))
    return cells.permute(order).reshape(latent.shape[0], math.prod(grid), -1)


def unpatchify(tokens: Tensor, grid: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """Join patches [B, prod(grid), prod(patch) * C], with the channel fastest, to [B, C, *sizes]."""
    count = len(patch)
    cells = tokens.unflatten(2, (*patch, -1)).unflatten(1, grid)
    pairs = [axis for index in range(count) for axis in (1 + index, 1 + count + index)]
    sizes = [steps * step for steps, step in zip(grid, patch, strict=True)]
    return cells.permute(0, 2 * count + 1, *pairs).reshape(tokens.shape[0], -1, *sizes)


def embed_patches(layer: nn.Conv2d | nn.Conv3d, latent: Tensor) -> Tensor:
    """A convolution whose stride is its kernel, as one matrix product: latent [B, C, *sizes] -> tokens [B, N, d]."""
    patches = patchify(latent.to(layer.weight.dtype), layer.kernel_size)
    return F.linear(patches, layer.weight.flatten(1), layer.bias)


class Head(nn.Module):
    """Modulated norm and linear map from tokens to patches, in float32."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.head = Float32Linear(dim, width)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / math.sqrt(dim))

    def forward(self, x: Tensor, e: Tensor, frames: Tensor | None) -> Tensor:
        """x [B, N, d], time embeddings e float32 [B, F, d], row of each token [N] or None -> float32 [B, N, width]."""
        rows = (self.modulation.float() + e.unsqueeze(2)).unbind(2)
        shift, scale = (rows_for_tokens(row, frames) for row in rows)
        normed = F.layer_norm(x.float(), x.shape[-1:], eps=EPS)
        return self.head(modulate(normed, shift, scale))
