"""Kernel distances of two sets of features (maximum mean discrepancy, kernel (x·y / D + 1)³): KVD of JavisBench, KID of av-benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avpref.datasets.distances.frechet import Features, FloatArray, checked

DEGREE, OFFSET = 3, 1.0
PUBLISHED_SEED = 2020


def kernel_distance(first: Features, second: Features, *, centred: bool) -> float:
    """Unbiased squared discrepancy of [N, D] and [M, D].

    JavisBench subtracts each set's mean before, because its Fréchet step centres the features in place: ``centred`` gives its
    published KVD, and removes every difference of means from the number. Raises InputError as
    :func:`avpref.datasets.distances.frechet.checked`.
    """
    one, two = checked(first), checked(second)
    if centred:
        one, two = one - one.mean(0), two - two.mean(0)
    within = _mean_without_diagonal(_kernel(one, one)) + _mean_without_diagonal(_kernel(two, two))
    return within - 2 * float(_kernel(one, two).mean())


@dataclass(frozen=True)
class SubsetSettings:
    """Random subsets of the kernel inception distance."""

    num_subsets: int = 100
    subset_size: int = 1000
    seed: int = PUBLISHED_SEED


def kernel_inception_distance(
    generated: Features, reference: Features, settings: SubsetSettings = SubsetSettings()
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets, drawn from ``generated`` first, without replacement, as published.

    The cross term is that of the published code (all pairs / m²).
    """
    distances = np.fromiter(_of_subsets(checked(generated), checked(reference), settings), dtype=np.float64)
    return float(distances.mean()), float(distances.std())


def _of_subsets(generated: FloatArray, reference: FloatArray, settings: SubsetSettings) -> Iterator[float]:
    random = np.random.RandomState(settings.seed)
    size = min(len(generated), len(reference), settings.subset_size)
    for _ in range(settings.num_subsets):
        one = generated[random.choice(len(generated), size, replace=False)]
        two = reference[random.choice(len(reference), size, replace=False)]
        within = _mean_without_diagonal(_kernel(one, one)) + _mean_without_diagonal(_kernel(two, two))
        yield within - 2 * float(_kernel(one, two).sum()) / size**2


def _kernel(one: FloatArray, two: FloatArray) -> FloatArray:
    return (one @ two.T / one.shape[1] + OFFSET) ** DEGREE


def _mean_without_diagonal(kernel: NDArray[np.float64]) -> float:
    count = len(kernel)
    return float(kernel.sum() - np.trace(kernel)) / (count * (count - 1))
