"""Distances under weights are those of sets with repeated clips; intervals cover, and depend on their seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from avpref.bench.measures.feature_rows import FeatureRows
from avpref.bench.measures.intervals import (
    BootstrapPlan,
    drawn_weights,
    mean_interval,
    size_effect,
    spread_interval,
)
from avpref.bench.measures.resampled_distances import ResampledFrechet, ResampledKernel
from avpref.datasets.distances.frechet import frechet_distance, moments
from avpref.datasets.distances.kernel_distance import kernel_distance


def rows(count: int, dims: int, seed: int, per_clip: int = 1, shift: float = 0.0) -> FeatureRows:
    random = np.random.default_rng(seed)
    values = (random.standard_normal((count * per_clip, dims)) * np.linspace(1, 0.1, dims) + shift).astype(np.float32)
    return FeatureRows(tuple(f"k{index}" for index in range(count)), values, np.repeat(np.arange(count), per_clip))


def repeated(own: FeatureRows, weights: np.ndarray) -> np.ndarray:
    return np.repeat(own.values, weights[own.owner], axis=0)


@pytest.mark.parametrize(("count", "dims", "per_clip"), [(7, 40, 1), (60, 6, 1), (5, 30, 3), (40, 5, 2)])
def test_frechet_under_weights_is_that_of_repeated_clips(count: int, dims: int, per_clip: int) -> None:
    first, second = rows(count, dims, 1, per_clip), rows(count + 2, dims, 2, per_clip, 0.3)
    distance, random = ResampledFrechet(first, second), np.random.default_rng(3)
    for _ in range(3):
        weights = drawn_weights(random, count), drawn_weights(random, count + 2)
        expected = frechet_distance(moments(repeated(first, weights[0])), moments(repeated(second, weights[1])))
        assert distance(*weights) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    ones = np.ones(count, np.int64), np.ones(count + 2, np.int64)
    assert distance(*ones) == pytest.approx(frechet_distance(moments(first.values), moments(second.values)), rel=1e-6)


@pytest.mark.parametrize("centred", [False, True])
def test_the_kernel_distance_with_every_clip_once_is_the_distance_itself(centred: bool) -> None:
    first, second = rows(12, 8, 1), rows(9, 8, 2, shift=0.5)
    distance = ResampledKernel(first, second, centred=centred)
    ones = np.ones(12, np.int64), np.ones(9, np.int64)
    assert distance(*ones) == pytest.approx(kernel_distance(first.values, second.values, centred=centred), rel=1e-9)
    without_last = np.array([1] * 11 + [0])
    expected = kernel_distance(first.values[:11], second.values, centred=centred)
    assert distance(without_last, ones[1]) == pytest.approx(expected, rel=1e-9)


def test_intervals_of_means_cover_the_truth() -> None:
    random, plan = np.random.default_rng(0), BootstrapPlan(mean_samples=400)
    hits = 0
    for trial in range(200):
        interval = mean_interval(random.exponential(1.0, 40), plan, trial)
        assert interval is not None and interval.low < interval.high
        hits += interval.low <= 1.0 <= interval.high
    assert 0.85 <= hits / 200 <= 0.99


def test_intervals_of_distances_cover_the_mean_distance_of_such_sets() -> None:
    plan, size, dims = BootstrapPlan(), 60, 4
    distances, intervals = [], []
    for trial in range(80):
        first, second = rows(size, dims, 2 * trial), rows(size, dims, 2 * trial + 1, shift=0.8)
        distance = ResampledFrechet(first, second)
        value = distance(np.ones(size, np.int64), np.ones(size, np.int64))

        def draw(random: np.random.Generator, distance: ResampledFrechet = distance) -> float:
            return distance(drawn_weights(random, size), drawn_weights(random, size))

        distances.append(value)
        intervals.append(spread_interval(value, draw, 30, plan, trial))
    centre = float(np.mean(distances))
    hits = [interval.low <= centre <= interval.high for interval in intervals if interval is not None]
    assert len(hits) == 80 and 0.85 <= np.mean(hits) <= 1.0


def test_the_effect_of_the_size_is_close_to_the_bias() -> None:
    """Two sets of one distribution: the true distance is 0, so the whole value is bias."""
    first, second = rows(80, 10, 1), rows(80, 10, 2)
    distance = ResampledFrechet(first, second)
    value = distance(np.ones(80, np.int64), np.ones(80, np.int64))

    def halved(random: np.random.Generator) -> float:
        weights = [np.isin(np.arange(80), random.permutation(80)[:40]).astype(np.int64) for _ in range(2)]
        return distance(*weights)

    effect = size_effect(value, halved, BootstrapPlan(), "column")
    assert effect is not None and 0.4 * value < effect < 2.0 * value


def test_equal_seeds_give_equal_intervals_and_others_give_others() -> None:
    values = np.random.default_rng(0).standard_normal(30)
    assert mean_interval(values, BootstrapPlan(), "a") == mean_interval(values, BootstrapPlan(), "a")
    assert mean_interval(values, BootstrapPlan(), "a") != mean_interval(values, BootstrapPlan(seed=1), "a")
    assert mean_interval(values[:1], BootstrapPlan(), "a") is None


def test_large_sets_are_resampled_less_often() -> None:
    plan = BootstrapPlan()
    assert plan.samples_of_distance(50, 400) == 200
    assert plan.samples_of_distance(10_000, 2048) == 20
    assert BootstrapPlan(distance_samples=2).samples_of_distance(50, 400) == 2
