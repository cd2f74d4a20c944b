"""Held-out comparison of policy and reference: paired by prompt and noise, in standard deviations of the reference.

Rewards come from :mod:`avpref.datasets.reward_formula` with the policy ``MissingScores.WORST``.

The interval is the expanded percentile interval (T. Hesterberg, What Teachers Should Know About the Bootstrap, The American
Statistician 69, 2015, section 3.3): more extreme quantiles of the resampled means, because resampling n values varies less than
sampling n values and because the spread itself is an estimate. It is one percent wider than plain quantiles with 256 pairs and
a third wider with 8; plain quantiles call one of two equal models better too often below 12 pairs (benchmarks/gate.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

from avpref.datasets.reward_formula import MetricScale, MissingScores, compute_rewards
from avpref.datasets.rows import EvaluationSide
from avpref.domain import dimensions_of
from avpref.errors import InputError
from avpref.identity import derive_seed


@dataclass(frozen=True)
class DimensionComparison:
    """Policy against reference in one dimension; deltas and interval in the reference's standard deviations.

    ``level`` is the error probability of each end of the interval: 0.025 for a 95 % interval.
    """

    delta_sd: float
    ci_low: float
    ci_high: float
    win_rate: float
    num_pairs: int
    reference_sd: float
    level: float = 0.025


@dataclass(frozen=True)
class BootstrapSettings:
    """Resamples, confidence (0.95: a 95 % interval) and the seed that the resamples derive from."""

    samples: int
    confidence: float
    seed: int


def rewards_of_sides(
    scores: Mapping[EvaluationSide, pd.DataFrame], metrics: Sequence[MetricScale]
) -> dict[EvaluationSide, pd.DataFrame]:
    """Rewards per side: a frame prompt × dimension, NaN where neither side's clip has a score of some metric.

    ``scores[side]``: prompt × metric raw values, NaN where a clip has no valid score. ``metrics`` carry the norm that was
    frozen when pairs were selected. A policy is not better for having scores of a metric where the reference has none at
    all: the dimension is then NaN on both sides. Raises InputError where the two sides cover different prompts.
    """
    reference, policy = scores[EvaluationSide.REFERENCE], scores[EvaluationSide.POLICY]
    if list(reference.index) != list(policy.index):
        missing = sorted(set(reference.index) ^ set(policy.index))
        raise InputError(
            f"{len(missing)} prompts were scored on one side only: {missing[:3]}", "equal prompts", "avpref runs resume"
        )
    unscored = [metric.name for metric in metrics if reference[metric.name].isna().all()]
    both = pd.concat([reference, policy.assign(**dict.fromkeys(unscored, np.nan))])
    names = [metric.name for metric in metrics]
    raw = both[names].to_numpy(float).T
    _, prompts = np.unique([str(prompt) for prompt in both.index], return_inverse=True)
    computed = compute_rewards(raw, metrics, "micro", MissingScores.WORST, prompts)
    rewards = pd.DataFrame(computed.by_dimension.T, index=both.index, columns=list(computed.dimensions))
    num_prompts = len(reference)
    return {EvaluationSide.REFERENCE: rewards[:num_prompts], EvaluationSide.POLICY: rewards[num_prompts:]}


@dataclass(frozen=True, eq=False)
class PairedDeltas:
    """Policy minus reference on the prompts where both have a reward, in units of ``reference_sd``; shape [num_pairs]."""

    deltas: np.ndarray
    reference_sd: float


@dataclass(frozen=True)
class Unscorable:
    """Share of each side's clips that lack a valid score of at least one metric of a dimension."""

    reference: float
    policy: float


def unscorable(scores: Mapping[EvaluationSide, pd.DataFrame], metrics: Sequence[MetricScale]) -> dict[str, Unscorable]:
    """Shares per dimension. ``scores[side]``: prompt × metric raw values, NaN where there is none."""
    names = {dimension: [m.name for m in metrics if m.dimension == dimension] for dimension in dimensions_of(metrics)}
    share = {
        side: {d: float(frame[columns].isna().any(axis=1).mean()) for d, columns in names.items()}
        for side, frame in scores.items()
    }
    return {d: Unscorable(share[EvaluationSide.REFERENCE][d], share[EvaluationSide.POLICY][d]) for d in names}


def paired(sides: Mapping[EvaluationSide, pd.DataFrame]) -> dict[str, PairedDeltas]:
    """Rewards of both sides (prompt × dimension) as paired differences.

    Raises InputError with fewer than two comparable pairs, or where the reference's rewards do not vary.
    """
    deltas = {}
    for dimension in sides[EvaluationSide.REFERENCE].columns:
        reference, policy = sides[EvaluationSide.REFERENCE][dimension], sides[EvaluationSide.POLICY][dimension]
        assert reference.index.equals(policy.index), "both sides cover the same prompts in one order"
        values = np.stack([reference.to_numpy(float), policy.to_numpy(float)])
        values = values[:, ~np.isnan(values).any(axis=0)]
        num_pairs = values.shape[1]
        if num_pairs < 2:
            fix = "raise prompts.num_evaluation_clips, or correct the scorers"
            raise InputError(f"{num_pairs} held-out pairs can be compared in dimension {dimension}", "at least 2", fix)
        deltas[dimension] = _deltas(values[0], values[1], dimension)
    return deltas


def compare(
    sides: Mapping[EvaluationSide, pd.DataFrame], settings: BootstrapSettings
) -> dict[str, DimensionComparison]:
    """Paired bootstrap over prompts, per dimension. Raises as :func:`paired`."""
    return {dimension: resampled(dimension, pairs, settings) for dimension, pairs in paired(sides).items()}


def comparison(pairs: PairedDeltas, low: float, high: float, level: float) -> DimensionComparison:
    """A comparison with the given interval; ties count as half a win."""
    wins = np.mean(pairs.deltas > 0) + 0.5 * np.mean(pairs.deltas == 0)
    delta, num_pairs = float(pairs.deltas.mean()), len(pairs.deltas)
    return DimensionComparison(delta, float(low), float(high), float(wins), num_pairs, pairs.reference_sd, level)


def _deltas(reference: np.ndarray, policy: np.ndarray, dimension: str) -> PairedDeltas:
    scale = float(np.std(reference, ddof=1))
    if scale <= 0:
        raise InputError(
            f"every reference clip has the same {dimension} reward", "rewards that vary", "correct the scorers"
        )
    return PairedDeltas((policy - reference) / scale, scale)


def resampled(name: str, pairs: PairedDeltas, settings: BootstrapSettings) -> DimensionComparison:
    """Paired bootstrap of the mean difference; ``name`` (a dimension or a metric) is part of the seed of the resamples."""
    deltas, num_pairs = pairs.deltas, len(pairs.deltas)
    generator = np.random.Generator(np.random.PCG64(derive_seed("bootstrap", settings.seed, str(name), num_pairs)))
    draws = generator.integers(0, num_pairs, size=(settings.samples, num_pairs))
    level = (1 - settings.confidence) / 2
    tail = _expanded(level, num_pairs)
    low, high = np.quantile(deltas[draws].mean(axis=1), [tail, 1 - tail])
    return comparison(pairs, low, high, level)


def _expanded(level: float, num_pairs: int) -> float:
    """The quantile at which an end misses with probability ``level``: Φ(√(n / (n − 1)) · t(level, n − 1))."""
    return float(ndtr(np.sqrt(num_pairs / (num_pairs - 1)) * stdtrit(num_pairs - 1, level)))
