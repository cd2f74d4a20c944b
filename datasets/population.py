"""Mean, standard deviation and quantiles of many numbers, with the bits of NumPy's functions and without their large temporaries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAF = 1 << 14
"""Numbers whose squares are added at once: few enough for a processor's cache."""


def mean_and_std(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of ``values`` [N], at least two; not finite where they overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean()
        squares = _sum_of_squares(values, mean, np.empty(min(LEAF, len(values))))
        return float(mean), math.sqrt(squares / (len(values) - 1)) if math.isfinite(squares) else math.inf


def has_missing(values: Floats) -> bool:
    """Whether a number of ``values`` [N] is NaN: the smallest one is NaN then, and no array of flags is needed."""
    return len(values) > 0 and math.isnan(values.min())


def is_finite(values: Floats) -> bool:
    """Whether all of ``values`` [N] are finite: their sum is finite then, or else it overflowed."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(values.sum()) or bool(np.isfinite(values).all())


def quantiles(values: Floats, shares: Sequence[float], scratch: Floats) -> tuple[float, ...]:
    """Quantiles of ``values`` [N] by linear interpolation between the two nearest ranks. ``scratch`` [at least N] is overwritten."""
    ranked = scratch[: len(values)]
    np.copyto(ranked, values)
    places = [(len(values) - 1) * share for share in shares]
    ranks = sorted({rank for place in places for rank in (math.floor(place), math.ceil(place))})
    by_rank = dict(zip(ranks, _ranked(ranked, ranks), strict=True))
    return tuple(
        _between(by_rank[math.floor(place)], by_rank[math.ceil(place)], place - math.floor(place)) for place in places
    )


def _sum_of_squares(values: Floats, mean: np.float64, scratch: Floats) -> float:
    """The sum of squared distances from ``mean``, added in pairs of halves as NumPy adds the numbers of an array."""
    if len(values) <= LEAF:
        distances = np.subtract(values, mean, out=scratch[: len(values)])
        return float(np.multiply(distances, distances, out=distances).sum())
    half = len(values) // 2
    half -= half % 8
    return _sum_of_squares(values[:half], mean, scratch) + _sum_of_squares(values[half:], mean, scratch)


def _ranked(values: Floats, ranks: Sequence[int]) -> list[float]:
    """The numbers at ``ranks`` (ascending, from 0) of the sorted ``values``, which are partly sorted for it.

    The middle rank splits the values, so that the other ranks are searched for in one half each.
    """
    if not ranks:
        return []
    if ranks[0] == 0:
        return [float(values.min()), *_ranked(values, ranks[1:])]
    if ranks[-1] == len(values) - 1:
        return [*_ranked(values, ranks[:-1]), float(values.max())]
    middle = len(ranks) // 2
    rank = ranks[middle]
    values.partition(rank)
    before = _ranked(values[:rank], ranks[:middle])
    after = _ranked(values[rank + 1 :], [other - rank - 1 for other in ranks[middle + 1 :]])
    return [*before, float(values[rank]), *after]


def _between(low: float, high: float, share: float) -> float:
    """The number at ``share`` of the way; from the nearer end, so that equal ends give their number."""
    step = high - low
    return low + step * share if share < 0.5 else high - step * (1 - share)
