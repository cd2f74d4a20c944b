"""A law of training timesteps: logit-normal, stretched between percentiles so that it covers [0, 1], with a share of uniform ones.

Source: ltx-trainer's shifted logit-normal sampler (eps 1e-3, a tenth uniform). The sigmoid of N(mu, spread) is stretched between its
0.5th and 99.9th percentile; values below eps are mirrored at eps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HIGH_PERCENTILE, LOW_PERCENTILE = 3.0902, -2.5758
"""The 99.9th and the 0.5th percentile of N(0, 1)."""
SMALLEST = 1e-3
UNIFORM_SHARE = 0.1


def stretched_times(normal: Tensor, uniform: Tensor, choice: Tensor, mu: float, spread: float = 1.0) -> Tensor:
    """Timesteps in [0, 1] from independent draws of equal shape: N(0, 1), and twice U(0, 1).

    ``choice`` decides between the stretched law and ``uniform`` on [eps, 1]. Invariant: every value is in [0, 1].
    """
    low, high = (_sigmoid(mu + percentile * spread) for percentile in (LOW_PERCENTILE, HIGH_PERCENTILE))
    stretched = (torch.sigmoid(normal * spread + mu) - low) / (high - low)
    mirrored = torch.where(stretched >= SMALLEST, stretched, 2 * SMALLEST - stretched).clamp(0, 1)
    return torch.where(choice > UNIFORM_SHARE, mirrored, (1 - SMALLEST) * uniform + SMALLEST)


def draw_stretched_time(generator: torch.Generator, mu: float, spread: float = 1.0) -> Tensor:
    """One timestep [] of the law with mean ``mu``: three draws of ``generator``."""
    normal = torch.randn((), generator=generator)
    uniform, choice = torch.rand(2, generator=generator)
    return stretched_times(normal, uniform, choice, mu, spread)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
