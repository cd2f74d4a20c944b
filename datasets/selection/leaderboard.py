"""Every selection strategy applied to one score table: Table 4 of the paper without training eighteen models."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.metric_tables import leaderboard_table
from avpref.datasets.reward_formula import Rewards
from avpref.datasets.selection.candidate_rewards import rewards_of, strategy_label
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pair_search import ALL
from avpref.datasets.selection.pairing import pairs_of
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.tables import OVERLAPS, conform

STRATEGIES: tuple[PairSettings, ...] = tuple(
    PairSettings(strategy=strategy, average=average, normalise=normalise, ground_truth=ground_truth)
    for average in ("micro", "macro")
    for normalise in (True, False)
    for ground_truth in (True, False)
    for strategy in ("modality", "average", "strict", "routed")
    if strategy not in ("strict", "routed") or (average == "micro" and normalise)
)
"""Modality and average, each micro and macro, with and without normalisation and ground truth; strict and routed with and without
ground truth."""


@dataclass(frozen=True)
class Leaderboard:
    """``rows``: table ``leaderboard``, one row per strategy; ``overlaps``: table ``strategy_overlaps``, the matrix of common
    pairs in long form."""

    rows: pa.Table
    overlaps: pa.Table


@dataclass(frozen=True, eq=False)
class _Outcome:
    """The pairs of one strategy: ``prompt`` [S], ordinals of both sides, and ``key``, a number that identifies a pair."""

    strategy: str
    prompt: NDArray[np.int64]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    key: NDArray[np.int64]


def leaderboard(matrix: ScoreMatrix, norm: Norm) -> Leaderboard:
    """Select with each of :data:`STRATEGIES` over one score matrix, and compare the outcomes.

    Mean margins are those of the normalised micro rewards for every strategy (population standard deviations), so rows can
    be compared. Raises as :func:`avpref.datasets.selection.pairing.select_pairs`.
    """
    common = rewards_of(matrix, PairSettings(), norm)
    by_ordinal = np.full((len(common.rewards.dimensions), len(matrix.index)), np.nan)
    by_ordinal[:, common.ordinals] = common.rewards.by_dimension
    outcomes: list[_Outcome] = []
    for _, group in groupby(STRATEGIES, key=_reward_settings):
        settings_of_group = list(group)
        rewards = rewards_of(matrix, settings_of_group[0], norm, with_overall=True)
        for settings in settings_of_group:
            pairs = pairs_of(matrix, rewards, settings)
            chosen, rejected = rewards.ordinals[pairs.chosen], rewards.ordinals[pairs.rejected]
            num_dimensions = len(common.rewards.dimensions) + 1
            key = (chosen * len(matrix.index) + rejected) * num_dimensions + pairs.dimension - ALL
            outcomes.append(_Outcome(strategy_label(settings), pairs.prompt, chosen, rejected, key))
    scale = Rewards(common.rewards.dimensions, by_ordinal, np.zeros(0))
    rows = [_row(matrix, outcome, scale) for outcome in outcomes]
    overlaps = [_overlap(first, second) for first in outcomes for second in outcomes]
    table = leaderboard_table(matrix.metrics)
    return Leaderboard(
        conform(table, pa.Table.from_pylist(rows, table.schema), norm.norm_id),
        conform(OVERLAPS, pa.Table.from_pylist(overlaps, OVERLAPS.schema), norm.norm_id),
    )


def _reward_settings(settings: PairSettings) -> tuple[str, bool, bool]:
    """The settings that rewards depend on; neighbouring strategies that agree in them share the rewards."""
    return settings.average, settings.normalise, settings.ground_truth


def _row(matrix: ScoreMatrix, outcome: _Outcome, scale: Rewards) -> dict[str, object]:
    """A row of table ``leaderboard``."""
    prompts, num_pairs = matrix.index.prompts, len(outcome.key)
    num_prompts, num_with_pair = int((prompts.is_known & prompts.is_train).sum()), len(np.unique(outcome.prompt))
    by_dimension = zip(scale.dimensions, scale.by_dimension, strict=True)
    return {
        "strategy": outcome.strategy,
        "pairs": num_pairs,
        "prompts": num_prompts,
        "prompts_with_pair": num_with_pair,
        "prompt_yield": num_with_pair / num_prompts if num_prompts else None,
        **{f"margin_{name}": _mean(line[outcome.chosen] - line[outcome.rejected]) for name, line in by_dimension},
        "ground_truth_share": _mean(matrix.index.is_ground_truth[outcome.chosen].astype(np.float64)),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _overlap(first: _Outcome, second: _Outcome) -> dict[str, object]:
    """A row of table ``strategy_overlaps``: pairs that both select, and their share of those that at least one selects."""
    common = len(np.intersect1d(first.key, second.key, assume_unique=True))
    either = len(first.key) + len(second.key) - common
    share = common / either if either else None
    return {"strategy": first.strategy, "other": second.strategy, "common": common, "share": share}
