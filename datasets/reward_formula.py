"""The reward formula: raw scores of any list of metrics become rewards per dimension. Nothing else computes rewards.

1. Normalise: sign · (score − mean) / std, so that higher is better; 0 where the metric has no variance.
2. With ``macro`` averaging, replace the normalised score by its rank among all rows (ascending, ties share the mean rank).
3. Apply the policy for missing scores, :class:`MissingScores`.
4. Reward of a dimension = weighted mean over its metrics; ``overall`` = weighted mean over all metrics. Weights are 1 unless
   ``scoring.weights`` lists others, which is the mean of the paper.

Pairs (:mod:`avpref.datasets.selection.candidate_rewards`) and the gate (:mod:`avpref.datasets.evidence.evaluation`) call
:func:`compute_rewards`; reports read the rewards that the two have sealed. A missing score or reward is NaN. Every number depends
on its own column alone (ranks aside) and terms are added in the order of the metrics, so slices give the bits of the whole.

Source: JavisDiT++ §"Reward Models" and its ranking script.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avpref.domain import dimensions_of

Average = Literal["micro", "macro"]
Floats = NDArray[np.float64]

SLICE = 1 << 14
"""Columns that are computed at once: few enough for a processor's cache."""


class MissingScores(StrEnum):
    """How a row counts that lacks the score of a metric.

    ``EXCLUDE``, for pairs: the row has no rewards, so no pair rests on an incomplete comparison.
    ``WORST``, for the gate: the row counts as the worst row of that metric, so that a model never gains by generating clips
    that cannot be scored; where no row of the prompt has a score, the dimension has no reward.
    """

    EXCLUDE = "exclude"
    WORST = "worst"


@dataclass(frozen=True)
class MetricScale:
    """A metric that enters rewards, with mean and standard deviation of the norm (0 and 1: not normalised)."""

    name: str
    dimension: str
    higher_is_better: bool
    mean: float
    std: float
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Rewards:
    """``by_dimension`` [D, N] in the order of ``dimensions``; ``overall`` [N], or [0] where nobody asked for it."""

    dimensions: tuple[str, ...]
    by_dimension: Floats
    overall: Floats


def compute_rewards(
    scores: Floats,
    metrics: Sequence[MetricScale],
    average: Average,
    missing: MissingScores,
    prompts: NDArray[np.integer],
    threads: int = 1,
    with_overall: bool = True,
) -> Rewards:
    """Rewards of raw ``scores`` [M, N], NaN where one is missing; ``prompts`` [N] tells the rows of one prompt from others.

    With ``EXCLUDE`` a row that lacks a score has no rewards at all, whatever the weight of the metric. No bit depends on ``threads``.
    """
    dimensions = dimensions_of(metrics)
    num_rows = scores.shape[1]
    rewards = Rewards(dimensions, np.empty((len(dimensions), num_rows)), np.empty(num_rows * with_overall))
    is_plain = average == "micro" and missing is MissingScores.EXCLUDE
    values = scores if is_plain else _replaced(scores, metrics, average, missing, prompts)

    def compute(start: int) -> None:
        part = slice(start, start + SLICE)
        numbers = _normalised_lines(values[:, part], metrics) if is_plain else values[:, part]
        by_dimension = rewards.by_dimension[:, part]
        overall = rewards.overall[part] if with_overall else np.empty(by_dimension.shape[1])
        own = Rewards(dimensions, by_dimension, overall)
        _add_up(own, numbers, metrics)
        if missing is MissingScores.EXCLUDE:
            suspects = np.flatnonzero(np.isnan(own.overall))  # a score that is missing, or an overflow
            lacking = suspects[np.isnan(scores[:, part][:, suspects]).any(axis=0)]
            own.by_dimension[:, lacking] = own.overall[lacking] = np.nan

    starts = range(0, num_rows, SLICE)
    if threads == 1 or len(starts) < 2:
        for start in starts:
            compute(start)
        return rewards
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(compute, starts))
    return rewards


def normalised_scores(scores: Floats, metrics: Sequence[MetricScale]) -> Floats:
    """Scores [M, N] after direction and normalisation; NaN stays NaN."""
    return np.stack(list(_normalised_lines(scores, metrics)))


def _normalised_lines(scores: Floats, metrics: Sequence[MetricScale]) -> Iterator[Floats]:
    return (normalised(line, metric) for line, metric in zip(scores, metrics, strict=True))


def normalised(scores: Floats, metric: MetricScale) -> Floats:
    """Scores [N] of one metric after direction and normalisation: higher is better."""
    if not metric.std > 0:
        return np.where(np.isnan(scores), np.nan, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        values = scores - metric.mean
        values /= metric.std
        return values if metric.higher_is_better else np.multiply(values, -1.0, out=values)


def mean_ranks(values: Floats) -> Floats:
    """Ranks [N] from 1, ascending; equal values share the mean of their ranks; NaN has none."""
    ranks = np.full(len(values), np.nan)
    rows = np.flatnonzero(~np.isnan(values))
    order = rows[np.argsort(values[rows])]
    ordered = values[order]
    is_first = np.append(True, ordered[1:] != ordered[:-1]) if len(order) else np.zeros(0, dtype=bool)
    run = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    ends = np.append(starts[1:], len(order))
    ranks[order] = ((starts + 1 + ends) / 2)[run]
    return ranks


def _replaced(
    scores: Floats,
    metrics: Sequence[MetricScale],
    average: Average,
    missing: MissingScores,
    prompts: NDArray[np.integer],
) -> Floats:
    """Normalised scores, or their ranks, after the policy for missing scores [M, N]."""
    values = normalised_scores(scores, metrics)
    for line in values:
        if average == "macro":
            line[:] = mean_ranks(line)
        if missing is MissingScores.WORST:
            line[:] = _worst_if_missing(line, prompts)
    return values


def _worst_if_missing(values: Floats, prompts: NDArray[np.integer]) -> Floats:
    """The smallest value of all rows in place of a NaN, unless no row of the prompt has a value."""
    is_missing = np.isnan(values)
    if is_missing.all():
        return values
    has_score = np.isin(prompts, prompts[~is_missing])
    return np.where(is_missing & has_score, np.nanmin(values), values)


def _add_up(rewards: Rewards, values: Iterable[Floats], metrics: Sequence[MetricScale]) -> None:
    """Weighted means over the metrics of every dimension, and over all. Terms are added to zeros, so that no mean is negative zero."""
    totals = dict(zip(rewards.dimensions, rewards.by_dimension, strict=True)) | {_OVERALL: rewards.overall}
    for total in totals.values():
        total.fill(0)
    weights = dict.fromkeys(totals, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for line, metric in zip(values, metrics, strict=True):
            weighted = line if metric.weight == 1 else metric.weight * line
            for name in (metric.dimension, _OVERALL):
                np.add(totals[name], weighted, out=totals[name])
                weights[name] += metric.weight
        for name, total in totals.items():
            np.divide(total, weights[name], out=total)


_OVERALL = ""
"""The place of the mean over all metrics among those of the dimensions."""
