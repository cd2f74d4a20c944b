"""Rectified flow: x_t = (1 - t) x0 + t x1 with data x0, noise x1 and t in [0, 1]; the velocity is dx_t/dt = x1 - x0.

The conventions of the original implementation (t in 0..1000, negated network output) do not occur here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NOMINAL_AREA_PX = 512.0 * 512.0


class Latents(NamedTuple):
    """Input or output of the network: video [B, C, T, h, w], audio [B, C, L, M]; None for an absent modality."""

    video: Tensor | None
    audio: Tensor | None


class LatentShapes(NamedTuple):
    """Shapes of one candidate's latents: video (C, T, h, w), audio (C, L, M); None for an absent modality."""

    video: tuple[int, int, int, int] | None
    audio: tuple[int, int, int] | None


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t x1 for x0, x1 [B, ...] and t [B].

    Invariant: t = 0 gives exactly x0 and t = 1 exactly x1.
    """
    t = t.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * x1


def velocity_target(x0: Tensor, x1: Tensor) -> Tensor:
    """The velocity v = x1 - x0 (noise minus data), the regression target; same shape as x0."""
    return x1 - x0


def logit_normal(shape: tuple[int, ...], generator: torch.Generator, loc: float = 0.0, spread: float = 1.0) -> Tensor:
    """Timesteps sigmoid(loc + spread * N(0, 1)), float32, ``shape``, in (0, 1) up to float32 saturation."""
    return torch.sigmoid(loc + spread * torch.randn(shape, generator=generator, device=generator.device))


def shift_timesteps(t: Tensor, ratio: float) -> Tensor:
    """Shift timesteps in [0, 1] towards noise: t' = r t / (1 + (r - 1) t); same shape and dtype.

    Invariants: 0 and 1 are fixed, r = 1 is the identity, and shifting by r then 1/r returns t.
    """
    return ratio * t / (1 + (ratio - 1) * t)


def shift_ratio(height_px: int, width_px: int, num_frames: int, scale: float = 1.0) -> float:
    """Shift ratio r = sqrt(h w / 512^2) * sqrt(n) * scale of the original, rounded as there (float32).

    n is 1 for a still and otherwise (frames // 17) * 5, a rule inherited from another video VAE (17 frames, 5 latents).
    Raises ValueError for clips of 2 to 16 frames, where that rule gives n = 0: such clips need a fixed ratio.
    """
    num_latents = 1 if num_frames == 1 else (num_frames // 17) * 5
    if num_latents == 0:
        raise ValueError(
            f"the length rule (frames // 17) * 5 gives 0 latent frames for a clip of {num_frames} frames; "
            "set a fixed shift: timesteps.shift (training) and sampling.shift (sampling)"
        )
    space = (torch.tensor(float(height_px)) * width_px / NOMINAL_AREA_PX).sqrt()
    return (space * torch.tensor(float(num_latents)).sqrt() * scale).item()
