"""Bootstrap intervals from NumPy generators with derived seeds: clips are drawn with replacement, prompts of two models together.

A mean has the interval between percentiles of its resampled values. A distance has its value ± z standard deviations of its resampled
values: the resampled values themselves lie too high, because a set with repeated clips has less variance. Neither contains the upward
bias that every distance of a small sample has; :func:`size_effect` measures that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from avpref.identity import derive_seed

Weights = NDArray[np.int64]
Draw = Callable[[np.random.Generator], float]
MEAN_SAMPLES = 2000
MOST_SAMPLES, FEWEST_SAMPLES = 200, 20
WORK_BUDGET = 2e12
"""Floating-point operations that the resampling of one distance may take; it decides the number of resamples."""
HALVES = 4


@dataclass(frozen=True)
class BootstrapPlan:
    """Seed and level of all intervals of a benchmark, and the largest number of resamples of a distance."""

    seed: int = 0
    confidence: float = 0.95
    mean_samples: int = MEAN_SAMPLES
    distance_samples: int = MOST_SAMPLES

    def generator(self, *names: object) -> np.random.Generator:
        """The generator of one column."""
        return np.random.Generator(np.random.PCG64(derive_seed("bench interval", self.seed, *names)))

    def samples_of_distance(self, rows: int, dims: int) -> int:
        """Number of resamples of a distance of sets of ``rows`` rows: fewer for large sets, at least 20."""
        small = min(rows, dims)
        work = 2.0 * rows * dims * small if rows > dims else 8.0 * small**3
        most = min(self.distance_samples, MOST_SAMPLES)
        return max(min(FEWEST_SAMPLES, most), min(most, int(WORK_BUDGET / (work + 10.0 * small**3 + 1))))


@dataclass(frozen=True)
class Interval:
    """Bounds at the plan's level, and the number of resamples."""

    low: float
    high: float
    samples: int

    def narrowed(self, centre: float, factor: float) -> Interval:
        """The interval around ``centre`` with its reach times ``factor``."""
        return Interval(centre - factor * (centre - self.low), centre + factor * (self.high - centre), self.samples)


def mean_interval(values: NDArray[np.floating], plan: BootstrapPlan, *names: object) -> Interval | None:
    """Interval of the mean of ``values`` [N]; None for fewer than two."""
    if len(values) < 2:
        return None
    random, size = plan.generator(*names), len(values)
    counts = random.multinomial(size, np.full(size, 1 / size), size=plan.mean_samples)
    means = counts @ values.astype(np.float64) / size
    tail = (1 - plan.confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(low), float(high), plan.mean_samples)


def spread_interval(value: float, draw: Draw, samples: int, plan: BootstrapPlan, *names: object) -> Interval | None:
    """``value`` ± z standard deviations of ``samples`` draws; None where fewer than half of the draws are finite."""
    random = plan.generator(*names)
    drawn = np.array([draw(random) for _ in range(samples)])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < max(2, samples // 2):
        return None
    reach = NormalDist().inv_cdf(0.5 + plan.confidence / 2) * float(drawn.std(ddof=1))
    return Interval(value - reach, value + reach, len(drawn))


def drawn_weights(random: np.random.Generator, num_clips: int) -> Weights:
    """How often each of ``num_clips`` clips is drawn, with replacement."""
    return random.multinomial(num_clips, np.full(num_clips, 1 / num_clips)).astype(np.int64)


def half_weights(random: np.random.Generator, num_clips: int) -> Weights:
    """1 for a random half of the clips, 0 for the others."""
    weights = np.zeros(num_clips, np.int64)
    weights[random.permutation(num_clips)[: num_clips // 2]] = 1
    return weights


def size_effect(value: float, draw_half: Draw, plan: BootstrapPlan, *names: object) -> float | None:
    """How much larger the distance of random halves of both sets is: about the bias that is left in ``value``; None if unknown.

    The bias of a Fréchet distance falls as 1 / N, so halving the sets adds about as much as is still there.
    """
    random = plan.generator("halves", *names)
    halves = np.array([draw_half(random) for _ in range(HALVES)])
    return float(halves.mean() - value) if np.isfinite(halves).all() else None
