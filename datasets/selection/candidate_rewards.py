"""Rewards of training candidates: the reward formula with the settings of a selection strategy.

Scores come from the score matrix. A candidate that lacks the score of a configured metric has no rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.block_table import BlockTable
from avpref.datasets.metric_tables import rewards_table
from avpref.datasets.population import is_finite
from avpref.datasets.reward_formula import MetricScale, MissingScores, Rewards, compute_rewards
from avpref.datasets.selection.candidate_order import Positions
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.selection.text_columns import constant
from avpref.datasets.tables import conform
from avpref.errors import ConfigError, TableError


@dataclass(frozen=True, eq=False)
class CandidateRewards:
    """Rewards of the admitted candidates that are complete.

    ``ordinals`` [C]: their ordinals, ascending; ``rewards``: theirs, in that order; ``scales``: the metrics with their norm;
    ``is_admitted`` [N]: whether the strategy admits a candidate of the matrix (ground truth may be left out).
    """

    ordinals: Positions
    rewards: Rewards
    scales: tuple[MetricScale, ...]
    is_admitted: NDArray[np.bool_]

    def ordinals_at(self, places: NDArray[np.signedinteger]) -> NDArray[np.int64]:
        """The ordinals at ``places`` of the rewards, in the width with which NumPy reads from places fastest."""
        return self.ordinals[places].astype(np.int64)


def strategy_label(settings: PairSettings) -> str:
    """Text that identifies the strategy: name and average, then every parameter that is not the default except ``norm``."""
    parts = [f"{settings.strategy}-{settings.average}"]
    parts += [] if settings.normalise else ["no-norm"]
    parts += [] if settings.ground_truth else ["no-gt"]
    for name, field in PairSettings.model_fields.items():
        value = getattr(settings, name)
        if name not in {"strategy", "average", "normalise", "ground_truth", "norm", "votes"} and value != field.default:
            parts.append(f"{name}={value:g}")
    return " ".join(parts)


def applied_norm_id(settings: PairSettings, norm: Norm) -> str:
    """The id of the norm that the rewards depend on; empty for a strategy that does not normalise."""
    return norm.norm_id if settings.normalise else ""


def rewards_of(
    matrix: ScoreMatrix, settings: PairSettings, norm: Norm, with_overall: bool | None = None
) -> CandidateRewards:
    """Rewards of the candidates of ``matrix``; held-out prompts are included where the matrix has them.

    With a frozen ``norm`` new candidates get rewards on the old scale (ranks of ``macro`` are always among the candidates
    themselves). Ground truth that the strategy does not admit counts in the norm but takes no part in ranks; the published ranking
    drops it at the same point. ``with_overall``: whether the mean over all metrics is computed; by default where the strategy needs it.
    Raises ConfigError where ``settings.norm`` names another norm, TableError where the norm lacks a metric that has scores.
    """
    if settings.norm and settings.norm != norm.norm_id:
        found = f"norm {norm.norm_id} given, settings ask for {settings.norm}"
        raise ConfigError(found, "the norm that pairs.norm names", "load that norm, or leave pairs.norm empty")
    scales = _scales(matrix, settings, norm)
    index = matrix.index
    is_admitted = np.ones(len(index), dtype=bool) if settings.ground_truth else ~index.is_ground_truth
    is_used = is_admitted if settings.average == "macro" else is_admitted & matrix.is_complete
    used: Positions = np.arange(len(index), dtype=index.row.dtype) if is_used.all() else np.flatnonzero(is_used)
    scores, prompt, is_complete = matrix.values, index.prompt, matrix.is_complete
    if len(used) < len(index):
        scores, prompt, is_complete = scores[:, used], prompt[used], is_complete[used]
    has_overall = settings.strategy == "average" if with_overall is None else with_overall
    exclude = MissingScores.EXCLUDE
    rewards = compute_rewards(scores, scales, settings.average, exclude, prompt, matrix.threads, has_overall)
    if not is_complete.all():
        kept = np.flatnonzero(is_complete)
        used = used[kept]
        rewards = Rewards(
            rewards.dimensions, rewards.by_dimension[:, kept], rewards.overall[kept if has_overall else slice(0)]
        )
    return CandidateRewards(used, rewards, scales, is_admitted)


def reward_table(matrix: ScoreMatrix, rewards: CandidateRewards, settings: PairSettings, norm: Norm) -> BlockTable:
    """Table ``rewards``. Raises TableError where a reward overflowed."""
    index, dimensions = matrix.index, rewards.rewards.dimensions
    texts = {"strategy": strategy_label(settings), "norm_id": applied_norm_id(settings, norm)}

    def make(start: int, end: int) -> pa.Table:
        ordinals, by_dimension = (
            rewards.ordinals[start:end].astype(np.int64),
            rewards.rewards.by_dimension[:, start:end],
        )
        columns = {
            "candidate_id": index.ids(ordinals),
            "prompt_id": index.prompt_ids(index.prompt[ordinals]),
            **dict(zip(dimensions, map(pa.array, by_dimension), strict=True)),
            **{name: constant(text, len(ordinals)) for name, text in texts.items()},
        }
        return conform(rewards_table(matrix.metrics), pa.table(columns))

    table = BlockTable(len(rewards.ordinals), make, matrix.threads)
    if not all(is_finite(line) for line in rewards.rewards.by_dimension):
        table.whole()  # the check of a block names the column
    return table


def _scales(matrix: ScoreMatrix, settings: PairSettings, norm: Norm) -> tuple[MetricScale, ...]:
    """A metric that is not normalised, or has no score at all, gets mean 0 and standard deviation 1."""
    scales, lacking = [], []
    for metric, line in zip(matrix.metrics, matrix.values, strict=True):
        known = norm.find(metric.name) if settings.normalise else None
        if known is None and settings.normalise and not np.isnan(line).all():
            lacking.append(metric.name)
        mean, std = (known.mean, known.std) if known else (0.0, 1.0)
        scales.append(MetricScale(metric.name, metric.dimension, metric.higher_is_better, mean, std, metric.weight))
    _require(lacking, norm)
    return tuple(scales)


def _require(lacking: Sequence[str], norm: Norm) -> None:
    if lacking:
        raise TableError(
            f"norm {norm.norm_id} ({norm.population}) has no {', '.join(lacking)}",
            "statistics of every configured metric",
            "leave pairs.norm empty to measure a new norm, or take the metrics out of scoring.metrics",
        )
