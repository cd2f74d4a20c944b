"""OpenSora's video VAE v1.2: SDXL's VAE per frame, then the temporal VAE on windows of 17 frames, then a fixed shift and scale.

The spatial part is diffusers' ``AutoencoderKL``; it is a parameter here, so that tests do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from avpref.models.dual_stream.temporal_vae import TemporalVae, drawn

WINDOW_FRAMES = 17
"""Frames of a window; each becomes 5 latents independently of the others, and a shorter last one ⌈n / 4⌉."""
SPATIAL_SCALE = 0.18215
"""Factor of the 2-D latents (not SDXL's own)."""
SHIFT = (-0.10, 0.34, 0.27, 0.98)
SCALE = (3.85, 2.32, 2.33, 3.06)

Normal = Callable[[torch.Size], Tensor]
"""Draws N(0, 1) of a shape."""


def num_latent_frames(num_frames: int) -> int:
    """Latent frames of a video."""
    whole, rest = divmod(num_frames, WINDOW_FRAMES)
    return whole * 5 + -(-rest // 4)


def encode_windows(vae: TemporalVae, frames: Tensor, normal: Normal) -> Tensor:
    """Latents [B, 4, T', h, w] of scaled 2-D latents [B, 4, T, h, w]; ``normal`` draws the noise of each window in order."""
    parts = []
    for window in frames.split(WINDOW_FRAMES, dim=2):
        mean, log_variance = vae.moments(window)
        parts.append(drawn(mean, log_variance, normal(mean.shape)))
    return (torch.cat(parts, dim=2) - _row(SHIFT, frames)) / _row(SCALE, frames)


def decode_windows(vae: TemporalVae, latents: Tensor, num_frames: int) -> Tensor:
    """Scaled 2-D latents [B, 4, ``num_frames``, h, w] of ``latents``. Raises ValueError for latents of another length."""
    if latents.shape[2] != num_latent_frames(num_frames):
        found = f"{latents.shape[2]} latent frames for {num_frames} frames"
        raise ValueError(f"{found}, expected {num_latent_frames(num_frames)}")
    z = latents * _row(SCALE, latents) + _row(SHIFT, latents)
    return torch.cat([vae.decode(window, num) for window, num in _windows(z, num_frames)], dim=2)


def _windows(z: Tensor, num_frames: int) -> Iterator[tuple[Tensor, int]]:
    """The latents of each window, and its number of frames."""
    start = 0
    for first in range(0, num_frames, WINDOW_FRAMES):
        num = min(WINDOW_FRAMES, num_frames - first)
        length = -(-num // 4)
        yield z[:, :, start : start + length], num
        start += length


def _row(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
