"""Does a metric tell good clips from bad ones? AUROC, pair accuracy and monotonicity, each with its interval. numpy only.

Everything is *goodness*: larger is better; the caller turns metrics of which lower is better. NaN stands for "no number":
such a clip takes part in nothing and is counted. Intervals are percentile bootstraps that resample *sources* (recordings), not rows:
several windows of one recording, and all negatives of one positive, stand or fall together.

The protocol is that of the JavisBench paper (Table A5): AUROC of good clips against negatives; accuracy over pairs of a good clip
and its own negative, strictly (s⁺ > s⁻) and with ties as right (s⁺ ≥ s⁻).
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
"""Differences up to this share of the numbers' standard deviation are ties: equal clips in different batches differ by rounding."""
MIN_SERIES_STEPS = 3
"""Fewer steps with a number have no order to speak of."""


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; ``low`` and ``high`` are None with fewer than two sources to resample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class DiscriminationData:
    """Good clips against negatives: goodness ``positive`` [P] with ``source`` [P] (any integers), goodness ``negative`` [N], and
    ``positive_of`` [N], the index in ``positive`` of the clip that each negative was made from.
    """

    positive: Floats
    source: Indices
    negative: Floats
    positive_of: Indices


@dataclass(frozen=True)
class Discrimination:
    """How well a contest is decided; estimates are None where nothing can be compared.

    ``num_pairs`` counts negatives that have a number and whose positive has one; the last two count clips without a number.
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
    """One clip made worse step by step: ``step`` [K], 0 for the clip as it is, and ``goodness`` [K]."""

    source: int
    step: Floats
    goodness: Floats


@dataclass(frozen=True)
class Monotonicity:
    """Mean over ladders of the rank correlation of goodness and *smaller* steps: 1 is right, 0 no order, −1 upside down.

    A ladder whose goodness is the same at every step (``num_constant``) tells no order and counts as 0; one with numbers at
    fewer than three steps (``num_without``) is left out.
    """

    estimate: Estimate | None
    num_series: int
    num_constant: int
    num_without: int


def auroc(positive: Floats, negative: Floats, tie: float = 0.0) -> float:
    """Probability that one of ``positive`` [P] lies above one of ``negative`` [N], ties (within ``tie``) counting half.

    Raises ValueError where one of them is empty.
    """
    if not len(positive) or not len(negative):
        raise ValueError("AUROC needs at least one positive and one negative")
    return float(_wins(positive, negative, tie).mean())


def spearman(first: Floats, second: Floats) -> float:
    """Rank correlation of two arrays [K], equal values sharing their mean rank; 0 where one of them is constant."""
    a, b = (_ranks(values) - (len(values) - 1) / 2 for values in (first, second))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def tie_of(values: Floats) -> float:
    """The difference up to which two of ``values`` (NaN left out) count as equal."""
    known = values[np.isfinite(values)]
    return TIE_SHARE * float(known.std()) if len(known) else 0.0


def discriminate(contest: DiscriminationData, tie: float, settings: BootstrapSettings) -> Discrimination:
    """All of a contest's numbers. Equal input gives equal intervals: resamples are drawn from the settings' seed."""
    own = contest.positive[contest.positive_of]
    has_positive, has_negative = ~np.isnan(contest.positive), ~np.isnan(contest.negative)
    is_pair = has_negative & ~np.isnan(own)
    sources, source = np.unique(contest.source, return_inverse=True)
    weights = _resamples(len(sources), settings)
    source_of = source[contest.positive_of]
    wins, compared = _between(
        contest.positive[has_positive],
        source[has_positive],
        contest.negative[has_negative],
        source_of[has_negative],
        len(sources),
        tie,
    )
    lead, at = (own - contest.negative)[is_pair], source_of[is_pair]
    pairs = _sums(np.ones(len(lead)), at, len(sources))
    return Discrimination(
        auroc=_estimate(_quadratic(weights, wins), _quadratic(weights, compared), settings),
        accuracy_strict=_estimate(weights @ _sums(lead > tie, at, len(sources)), weights @ pairs, settings),
        accuracy_tolerant=_estimate(weights @ _sums(lead >= -tie, at, len(sources)), weights @ pairs, settings),
        num_sources=len(np.unique(source[has_positive])),
        num_positives=int(has_positive.sum()),
        num_negatives=int(has_negative.sum()),
        num_pairs=int(is_pair.sum()),
        positives_without=int((~has_positive).sum()),
        negatives_without=int((~has_negative).sum()),
    )


def monotonicity(ladders: Sequence[DelaySeries], tie: float, settings: BootstrapSettings) -> Monotonicity:
    """Mean rank correlation over ``ladders``; see :class:`Monotonicity`."""
    order, owner, num_constant = [], [], 0
    for ladder in ladders:
        known = ~np.isnan(ladder.goodness)
        if known.sum() < MIN_SERIES_STEPS:
            continue
        goodness = ladder.goodness[known]
        is_constant = float(np.ptp(goodness)) <= tie
        order.append(0.0 if is_constant else -spearman(ladder.step[known], goodness))
        owner.append(ladder.source)
        num_constant += is_constant
    sources, at = np.unique(np.array(owner, np.int64), return_inverse=True)
    weights = _resamples(len(sources), settings)
    sums, counts = (_sums(np.array(values), at, len(sources)) for values in (order, np.ones(len(order))))
    estimate = _estimate(weights @ sums, weights @ counts, settings)
    return Monotonicity(estimate, len(order), num_constant, len(ladders) - len(order))


def _wins(positive: Floats, negative: Floats, tie: float) -> Floats:
    """[P, N]: 1 where the positive is above, ½ where it is level, 0 where it is below."""
    lead = positive[:, None] - negative
    return (lead > tie) + 0.5 * (np.abs(lead) <= tie)


def _between(
    positive: Floats, positive_source: Indices, negative: Floats, negative_source: Indices, count: int, tie: float
) -> tuple[Floats, Floats]:
    """Sums of wins and numbers of comparisons [count, count] between positives of one source and negatives of another."""
    wins = np.zeros((count, count))
    for source in np.unique(positive_source):
        won = _wins(positive[positive_source == source], negative, tie).sum(axis=0)
        wins[source] = _sums(won, negative_source, count)
    ones = (_sums(np.ones(len(at)), at, count) for at in (positive_source, negative_source))
    return wins, np.outer(*ones)


def _sums(values: np.ndarray, source: Indices, count: int) -> Floats:
    """Sum of ``values`` [n] per source, [count]."""
    return np.bincount(source, weights=values.astype(np.float64), minlength=count).astype(np.float64)


def _quadratic(weights: Floats, matrix: Floats) -> Floats:
    """wᵀ M w for every row w of ``weights`` [B, S]."""
    return np.asarray(((weights @ matrix) * weights).sum(axis=1))


def _resamples(num_sources: int, settings: BootstrapSettings) -> Floats:
    """How often each source is drawn, [1 + samples, S]: first the data as they are, then the resamples."""
    whole = np.ones((1, num_sources))
    if num_sources < 2:
        return whole
    seed = derive_seed("discrimination bootstrap", settings.seed, num_sources)
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.multinomial(num_sources, np.full(num_sources, 1 / num_sources), size=settings.samples)
    return np.concatenate([whole, drawn.astype(np.float64)])


def _estimate(sums: Floats, counts: Floats, settings: BootstrapSettings) -> Estimate | None:
    """The first ratio, with an interval from the others; resamples without anything to compare are left out."""
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
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[at]
