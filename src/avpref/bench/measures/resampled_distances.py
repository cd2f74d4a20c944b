"""Fréchet and kernel distances of resampled sets: each clip has a weight, the number of times that it was drawn.

Where a set has fewer rows than dimensions, both distances follow from inner products of rows, which are computed once:
tr (S₁ S₂)^½ is the sum of the singular values of the centred, weighted products (see :mod:`avpref.datasets.distances.frechet`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from avpref.bench.measures.feature_rows import FeatureRows
from avpref.datasets.distances.frechet import FloatArray, frechet_distance, moments
from avpref.datasets.distances.kernel_distance import DEGREE, OFFSET

Weights = NDArray[np.int64]
"""[clips]: how often each clip was drawn."""


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Row weights r [R], their sum n, and r / n."""

    weights: FloatArray
    total: float
    shares: FloatArray


def _weighted(rows: FeatureRows, weights: Weights) -> _Weighted:
    of_rows = weights[rows.owner].astype(np.float64)
    total = float(of_rows.sum())
    return _Weighted(of_rows, total, of_rows / max(total, 1.0))


class ResampledFrechet:
    """Fréchet distance of two sets under weights; a weight of 1 for every clip gives the distance itself."""

    def __init__(self, generated: FeatureRows, reference: FeatureRows) -> None:
        self._rows = generated, reference
        dims = generated.values.shape[1]
        self._products = (
            _Products(generated.values, reference.values)
            if len(generated.values) + len(reference.values) <= 2 * dims
            else None
        )

    def __call__(self, generated: Weights, reference: Weights) -> float:
        """The distance, NaN where a resampled set has fewer than two rows."""
        first, second = (
            _weighted(rows, weights) for rows, weights in zip(self._rows, (generated, reference), strict=True)
        )
        if min(first.total, second.total) < 2:
            return float("nan")
        if self._products is not None:
            return self._products.frechet(first, second)
        sets = [
            np.repeat(rows.values, weighted.weights.astype(np.int64), axis=0)
            for rows, weighted in zip(self._rows, (first, second), strict=True)
        ]
        return frechet_distance(moments(sets[0]), moments(sets[1]))


class ResampledKernel:
    """Kernel distance of two sets under weights, without the pairs of a row with itself; ``centred`` as in the published KVD."""

    def __init__(self, generated: FeatureRows, reference: FeatureRows, *, centred: bool) -> None:
        self._rows, self._centred = (generated, reference), centred
        self._products = _Products(generated.values, reference.values)

    def __call__(self, generated: Weights, reference: Weights) -> float:
        """The distance, NaN where a resampled set has fewer than two distinct rows."""
        first, second = (
            _weighted(rows, weights) for rows, weights in zip(self._rows, (generated, reference), strict=True)
        )
        products = self._products.centred(first, second) if self._centred else self._products.plain
        one, two, both = ((product / self._products.dims + OFFSET) ** DEGREE for product in products)
        within = _mean_of_pairs(one, first.weights) + _mean_of_pairs(two, second.weights)
        return within - 2 * float(first.shares @ both @ second.shares)


class _Products:
    """Inner products of the rows of two sets: X Xᵀ, Y Yᵀ and X Yᵀ, in float64."""

    def __init__(self, first: NDArray[np.floating], second: NDArray[np.floating]) -> None:
        one, two = first.astype(np.float64), second.astype(np.float64)
        self.dims = one.shape[1]
        self.plain = one @ one.T, two @ two.T, one @ two.T

    def frechet(self, first: _Weighted, second: _Weighted) -> float:
        one, two, both = self.plain
        p, q = first.shares, second.shares
        means = float(p @ one @ p), float(q @ two @ q), float(p @ both @ q)
        variances = [
            (float(side.weights @ np.diag(product)) - side.total * mean) / (side.total - 1)
            for side, product, mean in ((first, one, means[0]), (second, two, means[1]))
        ]
        cross = both - (p @ both)[None] - (both @ q)[:, None] + means[2]
        scales = [np.sqrt(side.weights / (side.total - 1)) for side in (first, second)]
        drawn = [side.weights > 0 for side in (first, second)]
        weighted = (scales[0][:, None] * cross * scales[1][None])[np.ix_(*drawn)]
        overlap = float(linalg.svdvals(weighted).sum())
        return means[0] + means[1] - 2 * means[2] + variances[0] + variances[1] - 2 * overlap

    def centred(self, first: _Weighted, second: _Weighted) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The products of rows without the weighted mean of their set."""
        one, two, both = self.plain
        return (
            _without_means(one, first.shares, first.shares),
            _without_means(two, second.shares, second.shares),
            _without_means(both, first.shares, second.shares),
        )


def _without_means(product: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    return product - (left @ product)[None] - (product @ right)[:, None] + float(left @ product @ right)


def _mean_of_pairs(kernel: FloatArray, weights: FloatArray) -> float:
    """Weighted mean over pairs of different rows."""
    pairs = float(weights.sum() ** 2 - weights @ weights)
    if pairs <= 0:
        return float("nan")
    return float(weights @ kernel @ weights - (weights**2) @ np.diag(kernel)) / pairs
