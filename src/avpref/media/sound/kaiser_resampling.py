"""Resampling as librosa 0.9.2 does by default (resampy's ``kaiser_best``), which the published numbers of JavisBench rest on.

The filter is a table of the right half of a windowed sinc; weights between its points are interpolated linearly. Source: Smith,
"Digital Audio Resampling"; resampy 0.4.3. For all other purposes use :func:`avpref.media.spectra.resample`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_ZEROS = 50
POINTS_PER_ZERO = 8192
ROLL_OFF = 0.9173473712608761
BETA = 12.984585247040012
FloatArray = NDArray[np.float64]


def kaiser_best(audio: NDArray[np.floating], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """[S] at ``from_hz`` → float32 [⌈S · to_hz / from_hz⌉] at ``to_hz``; equal rates return the samples as they are.

    Raises ValueError for a rate below 1 Hz.
    """
    if min(from_hz, to_hz) < 1:
        raise ValueError(f"rates are whole and positive, found {from_hz} Hz and {to_hz} Hz")
    samples = np.asarray(audio, dtype=np.float64)
    if from_hz == to_hz:
        return samples.astype(np.float32)
    ratio = to_hz / from_hz
    times = np.arange(len(samples) * to_hz // from_hz) / ratio
    whole = times.astype(np.int64)
    scale = min(1.0, ratio)
    past = scale * (times - whole)
    resampled = _wing(samples, whole, past, scale, forwards=False)
    resampled += _wing(samples, whole + 1, scale - past, scale, forwards=True)
    length = -(-len(samples) * to_hz // from_hz)
    return np.pad(resampled * scale, (0, length - len(resampled))).astype(np.float32)


class _Filter(NamedTuple):
    """Values at the points of the table, and the difference to the next point."""

    values: FloatArray
    steps: FloatArray


@cache
def _filter() -> _Filter:
    count = NUM_ZEROS * POINTS_PER_ZERO
    zeros = np.linspace(0, NUM_ZEROS, count + 1)
    values = ROLL_OFF * np.sinc(ROLL_OFF * zeros) * np.kaiser(2 * count + 1, BETA)[count:]
    return _Filter(values, np.diff(values, append=values[-1]))


def _wing(
    samples: FloatArray, start: NDArray[np.int64], past: FloatArray, scale: float, *, forwards: bool
) -> FloatArray:
    """One side's share of every output: inputs from ``start`` outwards, weighted by the table from ``past`` zeros on."""
    table = _filter()
    step = int(scale * POINTS_PER_ZERO)
    position = past * POINTS_PER_ZERO
    offset = position.astype(np.int64)
    between = position - offset
    total = np.zeros(len(start))
    for tap in range((len(table.values) - 1) // step + 1):
        point = offset + tap * step
        index = start + tap if forwards else start - tap
        is_used = (point < len(table.values)) & (tap < (len(table.values) - offset) // step)
        is_used &= (index >= 0) & (index < len(samples))
        inside, at = point[is_used], index[is_used]
        total[is_used] += (table.values[inside] + between[is_used] * table.steps[inside]) * samples[at]
    return total
