"""Every selection strategy applied to one score table: Table 4 of the paper without training eighteen models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import duckdb
import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.metric_tables import leaderboard_table
from avpref.datasets.query_texts import dimension_list, metric_list
from avpref.datasets.selection.candidate_rewards import compute_rewards, strategy_label
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pairing import rank
from avpref.datasets.selection.score_matrix import score_matrix
from avpref.datasets.tables import OVERLAPS, conform
from avpref.datasets.views import sql
from avpref.domain import Metric, dimensions_of

STRATEGIES: tuple[PairSettings, ...] = tuple(
    PairSettings(strategy=strategy, average=average, normalise=normalise, ground_truth=ground_truth)
    for average in ("micro", "macro")
    for normalise in (True, False)
    for ground_truth in (True, False)
    for strategy in ("modality", "average", "strict")
    if strategy != "strict" or (average == "micro" and normalise)
)
"""Modality and average, each micro and macro, with and without normalisation and ground truth; strict with and without it."""


@dataclass(frozen=True)
class Leaderboard:
    """``rows``: table ``leaderboard``, one row per strategy; ``overlaps``: table ``strategy_overlaps``, the matrix of common
    pairs in long form."""

    rows: pa.Table
    overlaps: pa.Table


def leaderboard(con: duckdb.DuckDBPyConnection, metrics: Sequence[Metric], norm: Norm) -> Leaderboard:
    """Select with each of :data:`STRATEGIES` over one score table, and compare the outcomes.

    Mean margins are those of the normalised micro rewards for every strategy (population standard deviations), so rows can
    be compared. Raises as :func:`avpref.datasets.selection.pairing.select_pairs`.
    """
    labels = [strategy_label(settings) for settings in STRATEGIES]
    with score_matrix(con, metrics):
        compute_rewards(con, PairSettings(), metrics, norm)
        dimensions = dimensions_of(metrics)
        con.execute(sql("common_rewards").format(dimensions=metric_list("{metric}", dimensions)))
        for _, group in groupby(enumerate(STRATEGIES, 1), key=lambda entry: _reward_settings(entry[1])):
            for number, (position, settings) in enumerate(group):
                if number == 0:
                    compute_rewards(con, settings, metrics, norm)
                rank(con, settings, metrics)
                con.execute(sql("selected_by_strategy"), {"position": position, "strategy": strategy_label(settings)})
        margin = 'chosen."{dimension}" - rejected."{dimension}" AS "{dimension}"'
        mean = 'list_avg(list(margins."{dimension}" ORDER BY margins.chosen, margins.rejected)) AS "margin_{dimension}"'
        query = sql("leaderboard").format(
            margins=dimension_list(margin, dimensions), means=dimension_list(mean, dimensions)
        )
        rows = con.sql(query, params={"strategies": labels}).to_arrow_table()
        overlaps = con.sql(sql("overlaps"), params={"strategies": labels}).to_arrow_table()
    table = leaderboard_table(metrics)
    return Leaderboard(conform(table, rows, norm.norm_id), conform(OVERLAPS, overlaps, norm.norm_id))


def _reward_settings(settings: PairSettings) -> tuple[str, bool, bool]:
    """The settings that rewards depend on; neighbouring strategies that agree in them share the rewards."""
    return settings.average, settings.normalise, settings.ground_truth
