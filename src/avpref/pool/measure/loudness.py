"""Loudness of a programme in LUFS by ITU-R BS.1770-4: K-weighting, blocks of 400 ms, two gates. numpy and scipy only.

The filters are designed for any sample rate from the analogue parameters behind the recommendation's coefficients for 48 kHz.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

HIGH_BOOST_HZ, HIGH_BOOST_DB, HIGH_BOOST_Q, HIGH_BOOST_EXPONENT = (
    1681.974450955533,
    3.999843853973347,
    0.7071752369554196,
    0.4996667741545416,
)
HIGH_PASS_HZ, HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
BLOCK_S, STEP_SHARE = 0.4, 0.25
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0
OFFSET = -0.691
SURROUND = 1.41
CHANNEL_WEIGHTS = {5: (1.0, 1.0, 1.0, SURROUND, SURROUND), 6: (1.0, 1.0, 1.0, 0.0, SURROUND, SURROUND)}
"""Weights of the channels of 5.0 and 5.1 in the usual order; low-frequency effects are left out. Others weigh 1."""


def k_weighted(channels: NDArray[np.float32], rate_hz: float) -> Samples:
    """Channels [C, S] after the two filters of the recommendation: [C, S]."""
    from scipy.signal import lfilter  # not at import: the command that names the measures filters nothing

    weighted = channels.astype(np.float64)
    for numerator, denominator in _filters(rate_hz):
        weighted = lfilter(numerator, denominator, weighted, axis=-1)
    return weighted


def _filters(rate_hz: float) -> tuple[tuple[Samples, Samples], tuple[Samples, Samples]]:
    k, gain = math.tan(math.pi * HIGH_BOOST_HZ / rate_hz), 10.0 ** (HIGH_BOOST_DB / 20.0)
    middle = gain**HIGH_BOOST_EXPONENT
    scale = 1.0 + k / HIGH_BOOST_Q + k * k
    boost = np.array(
        [gain + middle * k / HIGH_BOOST_Q + k * k, 2.0 * (k * k - gain), gain - middle * k / HIGH_BOOST_Q + k * k]
    )
    boost_back = np.array([scale, 2.0 * (k * k - 1.0), 1.0 - k / HIGH_BOOST_Q + k * k])
    k = math.tan(math.pi * HIGH_PASS_HZ / rate_hz)
    back = np.array([1.0 + k / HIGH_PASS_Q + k * k, 2.0 * (k * k - 1.0), 1.0 - k / HIGH_PASS_Q + k * k])
    return (boost / scale, boost_back / scale), (np.array([1.0, -2.0, 1.0]), back / back[0])


def integrated_lufs(channels: NDArray[np.float32], rate_hz: int) -> float | None:
    """Gated loudness of channels [C, S], full scale 1; None for less than 400 ms, and where every block is below −70 LUFS.

    A sine of 997 Hz at full scale in one channel is at −3.01 LUFS.
    """
    block, step = round(BLOCK_S * rate_hz), round(BLOCK_S * STEP_SHARE * rate_hz)
    if channels.shape[-1] < block:
        return None
    sums = np.cumsum(np.square(k_weighted(channels, rate_hz)), axis=-1)
    sums = np.concatenate([np.zeros((len(channels), 1)), sums], axis=-1)
    starts = np.arange(0, channels.shape[-1] - block + 1, step)
    powers = np.maximum(sums[:, starts + block] - sums[:, starts], 0.0) / block
    weights = np.array(CHANNEL_WEIGHTS.get(len(channels), (1.0,) * len(channels)))
    power = weights @ powers
    heard = power[power > _power_of(ABSOLUTE_GATE)]
    if not len(heard):
        return None
    gated = heard[heard > np.mean(heard) * 10.0 ** (RELATIVE_GATE / 10.0)]
    return float(OFFSET + 10.0 * np.log10(np.mean(gated)))


def _power_of(lufs: float) -> float:
    return float(10.0 ** ((lufs - OFFSET) / 10.0))
