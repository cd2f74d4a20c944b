"""How well a metric separates good clips from negatives: AUROC, pair accuracy and monotonicity, with intervals. numpy only.

All inputs are *goodness* values, of which larger is better; the caller negates metrics of which lower is better. NaN means "no
number": such a clip is excluded and counted. Intervals are percentile bootstraps over *sources* (recordings), not over rows, because
the windows of a recording, and all negatives of a positive, are not independent.

The protocol is that of the JavisBench paper (Table A5): AUROC of good clips against negatives; accuracy over pairs of a good clip
and its own negative, strict (s⁺ > s⁻) and tolerant, where ties count as right (s⁺ ≥ s⁻).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avpref.datasets.evidence.evaluation import BootstrapSettings
from avpref.identity import derive_seed

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

TIE_SHARE = 1e-6
"""Differences up to this share of the values' standard deviation are ties: equal clips in different batches differ by rounding."""
MIN_SERIES_STEPS = 3
"""Least number of steps with a value for a rank correlation."""


@dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval; ``low`` and ``high`` are None with fewer than two sources to resample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class DiscriminationData:
    """Goodness of good clips and of negatives.

    ``positive`` [P] is the goodness of the good clips and ``source`` [P] their recordings (any integers); ``negative`` [N] is the
    goodness of the negatives and ``positive_of`` [N] the index in ``positive`` of the clip that each was made from.
    """

    positive: Floats
    source: Indices
    negative: Floats
    positive_of: Indices


@dataclass(frozen=True)
class Discrimination:
    """How well a metric separates good clips from negatives; estimates are None if there is nothing to compare.

    ``num_pairs`` counts negatives that have a number and whose positive has one. ``positives_without`` and ``negatives_without``
    count clips without a number.
    """

    auroc: Estimate | None
    accuracy_strict: Estimate | None
    accuracy_tolerant: Estimate | None
    num_sources: int
    num_positives: int
    num_negatives: int
    num_pairs: int
    positives_without: int
    negatives_without: int


@dataclass(frozen=True, eq=False)
class DelaySeries:
    """Goodness of a clip at increasing delays: ``step`` [K] in seconds, 0 for the clip as it is, and ``goodness`` [K]."""

    source: int
    step: Floats
    goodness: Floats


@dataclass(frozen=True)
class Monotonicity:
    """Mean over series of the rank correlation of goodness and *negated* steps: 1 is perfect, 0 no order, −1 reversed.

    A series whose goodness is the same at every step (``num_constant``) counts as 0; a series with numbers at fewer than three
    steps (``num_without``) is excluded. ``num_series`` counts those that are included.
    """

    estimate: Estimate | None
    num_series: int
    num_constant: int
    num_without: int


def auroc(positive: Floats, negative: Floats, tie: float = 0.0) -> float:
    """Probability that one of ``positive`` [P] is above one of ``negative`` [N]; ties (within ``tie``) count half.

    Raises ValueError if one of them is empty.
    """
    if not len(positive) or not len(negative):
        raise ValueError("AUROC needs at least one positive and one negative")
    return float(_wins(positive, negative, tie).mean())


def spearman(first: Floats, second: Floats) -> float:
    """Rank correlation of two arrays [K]; equal values have their mean rank; 0 if one of the arrays is constant."""
    a, b = (_ranks(values) - (len(values) - 1) / 2 for values in (first, second))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def tie_of(values: Floats) -> float:
    """The difference up to which two of ``values`` [N] count as equal; NaN are ignored."""
    known = values[np.isfinite(values)]
    return TIE_SHARE * float(known.std()) if len(known) else 0.0


def discriminate(data: DiscriminationData, tie: float, settings: BootstrapSettings) -> Discrimination:
    """All statistics of ``data``. Equal input gives equal intervals: resamples are drawn from the settings' seed."""
    own_positive = data.positive[data.positive_of]
    has_positive, has_negative = ~np.isnan(data.positive), ~np.isnan(data.negative)
    is_pair = has_negative & ~np.isnan(own_positive)
    sources, source = np.unique(data.source, return_inverse=True)
    weights = _resamples(len(sources), settings)
    source_of = source[data.positive_of]
    wins, compared = _wins_between_sources(
        data.positive[has_positive],
        source[has_positive],
        data.negative[has_negative],
        source_of[has_negative],
        len(sources),
        tie,
    )
    difference, pair_source = (own_positive - data.negative)[is_pair], source_of[is_pair]
    pairs, strict, tolerant = (
        weights @ _sums(values, pair_source, len(sources))
        for values in (np.ones(len(difference)), difference > tie, difference >= -tie)
    )
    return Discrimination(
        auroc=_estimate(_quadratic(weights, wins), _quadratic(weights, compared), settings),
        accuracy_strict=_estimate(strict, pairs, settings),
        accuracy_tolerant=_estimate(tolerant, pairs, settings),
        num_sources=len(np.unique(source[has_positive])),
        num_positives=int(has_positive.sum()),
        num_negatives=int(has_negative.sum()),
        num_pairs=int(is_pair.sum()),
        positives_without=int((~has_positive).sum()),
        negatives_without=int((~has_negative).sum()),
    )


def monotonicity(series: Sequence[DelaySeries], tie: float, settings: BootstrapSettings) -> Monotonicity:
    """Mean rank correlation over ``series``; see :class:`Monotonicity`."""
    correlations, series_sources, num_constant = [], [], 0
    for delays in series:
        known = ~np.isnan(delays.goodness)
        if known.sum() < MIN_SERIES_STEPS:
            continue
        goodness = delays.goodness[known]
        is_constant = float(np.ptp(goodness)) <= tie
        correlations.append(0.0 if is_constant else -spearman(delays.step[known], goodness))
        series_sources.append(delays.source)
        num_constant += is_constant
    sources, source = np.unique(np.array(series_sources, np.int64), return_inverse=True)
    weights = _resamples(len(sources), settings)
    values = (np.array(correlations), np.ones(len(correlations)))
    sums, counts = (weights @ _sums(value, source, len(sources)) for value in values)
    estimate = _estimate(sums, counts, settings)
    return Monotonicity(estimate, len(correlations), num_constant, len(series) - len(correlations))


def _wins(positive: Floats, negative: Floats, tie: float) -> Floats:
    """[P, N]: 1 if the positive is above the negative, ½ for a tie, 0 if it is below."""
    difference = positive[:, None] - negative
    return (difference > tie) + 0.5 * (np.abs(difference) <= tie)


def _wins_between_sources(
    positive: Floats, positive_source: Indices, negative: Floats, negative_source: Indices, count: int, tie: float
) -> tuple[Floats, Floats]:
    """Sums of wins and numbers of comparisons [count, count] between the positives of a source and the negatives of another."""
    wins = np.zeros((count, count))
    for source in np.unique(positive_source):
        won = _wins(positive[positive_source == source], negative, tie).sum(axis=0)
        wins[source] = _sums(won, negative_source, count)
    num_clips = (_sums(np.ones(len(sources)), sources, count) for sources in (positive_source, negative_source))
    return wins, np.outer(*num_clips)


def _sums(values: np.ndarray, source: Indices, count: int) -> Floats:
    """Sum of ``values`` [n] per source, [count]."""
    return np.bincount(source, weights=values.astype(np.float64), minlength=count).astype(np.float64)


def _quadratic(weights: Floats, matrix: Floats) -> Floats:
    """wᵀ M w for every row w of ``weights`` [B, S]."""
    return np.asarray(((weights @ matrix) * weights).sum(axis=1))


def _resamples(num_sources: int, settings: BootstrapSettings) -> Floats:
    """How often each source is drawn, [1 + samples, S]: the first row is the data as they are, the others are resamples."""
    original = np.ones((1, num_sources))
    if num_sources < 2:
        return original
    seed = derive_seed("discrimination bootstrap", settings.seed, num_sources)
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.multinomial(num_sources, np.full(num_sources, 1 / num_sources), size=settings.samples)
    return np.concatenate([original, drawn.astype(np.float64)])


def _estimate(sums: Floats, counts: Floats, settings: BootstrapSettings) -> Estimate | None:
    """The first ratio, with an interval from the others; resamples with nothing to compare are excluded."""
    if not counts[0]:
        return None
    ratios = sums[1:][counts[1:] > 0] / counts[1:][counts[1:] > 0]
    value = float(sums[0] / counts[0])
    if not len(ratios):
        return Estimate(value, None, None)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values have their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[group]
