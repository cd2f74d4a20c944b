"""Agreement of annotators: Krippendorff's alpha, share of equal answers, Cohen's kappa.

Alpha follows K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): alpha = 1 − D_o / D_e, where D_o is the mean
difference of two ratings of one item and D_e that of two ratings of any items. Items with fewer than two ratings are left out, and any
ratings may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["nominal", "ordinal", "interval"]
Ratings = Mapping[str, Mapping[int, int]]
"""Item → annotator → value."""


def krippendorff_alpha(ratings: Ratings, level: Level) -> float | None:
    """Alpha of values at a level of measurement: 1 for perfect agreement, 0 for chance, negative for less.

    None where fewer than two ratings can be compared, or where all values are equal and alpha is not defined.
    """
    units = [list(by_annotator.values()) for by_annotator in ratings.values() if len(by_annotator) > 1]
    values = sorted({value for unit in units for value in unit})
    if len(values) < 2:
        return None
    index = {value: number for number, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for unit in units:
        counts = np.bincount([index[value] for value in unit], minlength=len(values)).astype(np.float64)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(axis=1)
    number = totals.sum()
    difference = _DIFFERENCES[level](np.array(values, np.float64), totals)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (number - 1)
    denominator = float((expected * difference).sum())
    return None if denominator == 0 else 1.0 - float((coincidences * difference).sum()) / denominator


def _nominal(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values[:, None] != values[None, :]).astype(np.float64)


def _interval(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values[:, None] - values[None, :]) ** 2


def _ordinal(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared number of ratings between two ranks, each end counted half."""
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2


_DIFFERENCES: Mapping[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
}


def common_items(ratings: Ratings, first: int, second: int) -> list[tuple[int, int]]:
    """The values that both annotators gave, item by item."""
    return [(by[first], by[second]) for by in ratings.values() if first in by and second in by]


def equal_share(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Share of equal values; None without pairs."""
    return sum(value == other for value, other in pairs) / len(pairs) if pairs else None


def cohen_kappa(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Cohen's kappa of two annotators (1960): agreement beyond chance; None where chance agreement is certain or there are no pairs."""
    if not pairs:
        return None
    number = len(pairs)
    values = {value for pair in pairs for value in pair}
    chance = sum(
        sum(first == value for first, _ in pairs) * sum(other == value for _, other in pairs) for value in values
    ) / (number * number)
    observed = equal_share(pairs)
    assert observed is not None
    return None if chance == 1 else (observed - chance) / (1 - chance)
