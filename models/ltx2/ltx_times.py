"""The shift of timesteps of LTX-2 by the number of tokens, in training and in sampling."""

from __future__ import annotations

FEW_TOKENS, MANY_TOKENS = 1024, 4096
LOW_SHIFT, HIGH_SHIFT = 0.95, 2.05


def token_shift(num_tokens: int) -> float:
    """Mean mu of the logit of a timestep: linear in tokens, 0.95 at 1,024 and 2.05 at 4,096, extrapolated on both sides.

    A shift by the ratio exp(mu) moves the logit by mu. Sources: diffusers' LTX2Pipeline and ltx-trainer's sampler of timesteps.
    """
    slope = (HIGH_SHIFT - LOW_SHIFT) / (MANY_TOKENS - FEW_TOKENS)
    return LOW_SHIFT + slope * (num_tokens - FEW_TOKENS)
