"""What every selection strategy would make of one score table: Table 4 of the paper without training eighteen models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import duckdb
import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.selection.candidate_rewards import stand, strategy_label
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pairing import rank
from avpref.datasets.selection.score_matrix import board
from avpref.datasets.tables import LEADERBOARD, OVERLAPS, conform
from avpref.datasets.views import sql
from avpref.domain import Metric

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
    """Select with every one of :data:`STRATEGIES` over one score table, and compare the outcomes.

    Mean margins are those of the normalised micro rewards for every strategy (population standard deviations), so rows can
    be compared. Raises as :func:`avpref.datasets.selection.pairing.select_pairs`.
    """
    labels = [strategy_label(settings) for settings in STRATEGIES]
    with board(con, metrics):
        stand(con, PairSettings(), metrics, norm)
        con.execute(sql("yardstick"))
        for _, alike in groupby(enumerate(STRATEGIES, 1), key=lambda one: _standing_of(one[1])):
            for number, (place, settings) in enumerate(alike):
                if number == 0:
                    stand(con, settings, metrics, norm)
                rank(con, settings)
                con.execute(sql("picks"), {"place": place, "strategy": strategy_label(settings)})
        rows = con.sql(sql("leaderboard"), params={"strategies": labels}).to_arrow_table()
        overlaps = con.sql(sql("overlaps"), params={"strategies": labels}).to_arrow_table()
    return Leaderboard(conform(LEADERBOARD, rows, norm.norm_id), conform(OVERLAPS, overlaps, norm.norm_id))


def _standing_of(settings: PairSettings) -> tuple[str, bool, bool]:
    """What a standing depends on; strategies that share it are ranked on the same one."""
    return settings.average, settings.normalise, settings.ground_truth
