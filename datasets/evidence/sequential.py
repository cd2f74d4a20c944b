"""Sequential decisions: repeated looks at the evidence with early stopping, at an unchanged error probability.

Group-sequential design with error spending (K. Lan and D. DeMets, Discrete sequential boundaries for clinical trials,
Biometrika 70, 1983) in its O'Brien-Fleming-like form: when a fraction t of the held-out prompts has been seen, at most

    α(t) = 2 − 2 Φ(z(α / 2) / √t)

of the error α may have been spent: very little early, all of it at the end. Each look is Student's interval of the mean
paired difference, whose ends miss with probability α(t_k) − α(t_{k−1}). These sum to α, so the probability that the lower
bound of any look lies above the truth is at most α, however the looks depend on each other (union bound). The exact joint
boundaries would be slightly narrower but need numerical integration; they gain little, because the last look has most of α.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from avpref.datasets.evidence.evaluation import DimensionComparison, PairedDeltas, comparison, paired
from avpref.datasets.rows import EvaluationSide


@dataclass(frozen=True)
class Look:
    """One look: number of held-out prompts seen so far, and the error probability of each end of its intervals."""

    num_prompts: int
    level: float


def spent(level: float, fraction: float) -> float:
    """Error spent up to ``fraction`` in (0, 1] of the prompts; ``spent(level, 1) == level``."""
    return 2 * float(ndtr(ndtri(level / 2) / math.sqrt(fraction)))


def plan(num_prompts: int, look_prompts: int, confidence: float) -> list[Look]:
    """Looks after every ``look_prompts`` of ``num_prompts`` prompts, the last one at all of them.

    Invariant: the levels sum to (1 − confidence) / 2. Prompts after the last full look belong to that look.
    """
    level = (1 - confidence) / 2
    sizes = [*range(look_prompts, num_prompts - look_prompts + 1, look_prompts), num_prompts]
    used = [0.0, *(spent(level, size / num_prompts) for size in sizes)]
    return [Look(size, after - before) for size, before, after in zip(sizes, used, used[1:], strict=False)]


def compare_at(sides: Mapping[EvaluationSide, pd.DataFrame], look: Look) -> dict[str, DimensionComparison]:
    """Student's interval of the mean paired difference, per dimension, at the look's level.

    ``sides``: rewards prompt × dimension of the prompts seen so far. Raises as :func:`avpref.datasets.evidence.evaluation.paired`.
    """
    return {dimension: student(pairs, look) for dimension, pairs in paired(sides).items()}


def student(pairs: PairedDeltas, look: Look) -> DimensionComparison:
    """Student's interval of the mean paired difference of at least two pairs, at the look's level."""
    num_pairs, mean = len(pairs.deltas), float(pairs.deltas.mean())
    error = float(np.std(pairs.deltas, ddof=1)) / math.sqrt(num_pairs)
    width = -float(stdtrit(num_pairs - 1, look.level)) * error if error else 0.0
    return comparison(pairs, mean - width, mean + width, look.level)
