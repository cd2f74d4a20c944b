"""The distribution of training timesteps of LTX-2: a shifted logit-normal law whose shift depends on the number of tokens.

Source: ltx-trainer's shifted logit-normal sampler (std 1, eps 1e-3, a tenth uniform). The sigmoid of N(mu, 1) is stretched between its
0.5th and 99.9th percentile so that it covers [0, 1]; values below eps are mirrored at eps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEW_TOKENS, MANY_TOKENS = 1024, 4096
LOW_SHIFT, HIGH_SHIFT = 0.95, 2.05
HIGH_PERCENTILE, LOW_PERCENTILE = 3.0902, -2.5758
"""The 99.9th and the 0.5th percentile of N(0, 1)."""
SMALLEST = 1e-3
UNIFORM_SHARE = 0.1


def token_shift(num_tokens: int) -> float:
    """Mean mu of the law: linear in the number of tokens, 0.95 at 1,024 and 2.05 at 4,096, extrapolated on both sides."""
    slope = (HIGH_SHIFT - LOW_SHIFT) / (MANY_TOKENS - FEW_TOKENS)
    return LOW_SHIFT + slope * (num_tokens - FEW_TOKENS)


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
