"""Which candidate is preferred to which: the selection of preference pairs, all of it SQL over the score table.

Source: JavisDiT++ §"Preference Data Acquisition", Table 4, and its ranking script, with which the ``modality`` strategy
agrees pair for pair (the average strategies are described in the paper and absent from the script).

* ``modality``: chosen is strictly better on all three dimension rewards; the pair's margin is the sum of the three.
* ``average``: one reward per candidate, the mean over all metrics; the margin is its difference.
* ``strict``: chosen is strictly better on every single metric; the margin is the sum of the three rewards' differences.

The largest margins of a prompt win, at most ``max_pairs_per_prompt``; ties go to the chosen, then the rejected candidate
that comes first (index, then id). ``min_margin`` is a lower bound (inclusive) on this same margin, ``margin_total``.
Ground truth that the strategy does not admit has still shaped the norm, but not the ranks of ``macro``, as in the
original. A candidate that lacks a configured metric (no
row, not ok, NaN, infinite) is in no pair; it is listed in ``excluded`` with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import duckdb
import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.selection.candidate_rewards import applied_norm_id, read_rewards, stand, strategy_label
from avpref.datasets.selection.normalise import Norm, measure_board
from avpref.datasets.selection.score_matrix import board
from avpref.datasets.tables import EXCLUDED, PAIRS, SKIPPED, conform
from avpref.datasets.views import sql
from avpref.domain import Metric


class SkipReason(StrEnum):
    """Why a prompt has no pair: the first that applies, in this order."""

    HELD_OUT = "held_out"
    NO_CANDIDATES = "no_candidates"
    ONE_CANDIDATE = "one_candidate"
    UNSCORED = "unscored"
    NO_DOMINANCE = "no_dominance"
    MARGIN = "margin"
    SHAPE = "shape"
    LENGTH = "length"


class ExclusionReason(StrEnum):
    """Why a candidate has no usable number for a metric."""

    MISSING = "missing"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"
    NOT_FINITE = "not_finite"


@dataclass(frozen=True)
class Selection:
    """Pairs, prompts without one, candidates that could not be compared, everyone's rewards, and what shaped them.

    Every prompt is either in ``pairs`` or in ``skipped``. ``warnings`` are sentences for people.
    """

    pairs: pa.Table
    skipped: pa.Table
    excluded: pa.Table
    rewards: pa.Table
    norm: Norm
    warnings: tuple[str, ...]


def select_pairs(
    con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm
) -> Selection:
    """Select pairs over the views ``candidates``, ``scores`` and ``prompts`` of the connection.

    Only prompts of the train split are paired; an empty view ``prompts`` means that all are. Equal content gives equal
    tables, whatever the row order and the number of threads. Raises ConfigError or TableError; see
    :func:`avpref.datasets.selection.score_matrix.board` and :func:`avpref.datasets.selection.candidate_rewards.stand`.
    """
    with board(con, metrics):
        return _select(con, settings, metrics, norm)


def measure_and_select(
    con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], population: str
) -> Selection:
    """:func:`avpref.datasets.selection.normalise.measure` and then :func:`select_pairs`, gathering the scores once."""
    with board(con, metrics):
        return _select(con, settings, metrics, measure_board(con, population, metrics))


def _select(con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm) -> Selection:
    stand(con, settings, metrics, norm)
    rank(con, settings)
    return Selection(
        pairs=_read_pairs(con, settings, norm),
        skipped=_read_skipped(con, settings, metrics),
        excluded=_read_excluded(con, metrics),
        rewards=read_rewards(con, settings, norm),
        norm=norm,
        warnings=_warnings(settings, metrics, norm),
    )


def rank(con: duckdb.DuckDBPyConnection, settings: PairSettings) -> None:
    """Fill the temporary table ``selected`` from the standing; call after :func:`avpref.datasets.selection.candidate_rewards.stand`."""
    con.execute(sql("entrants"))
    match settings.strategy:
        case "modality":
            con.execute(sql("dominance_modality"))
        case "average":
            con.execute(sql("dominance_average"))
        case "strict":
            con.execute(sql("dominance_strict"))
    limits = {
        "min_margin": settings.min_margin,
        "max_pairs": settings.max_pairs_per_prompt,
        "min_aspect": settings.min_aspect_ratio,
        "max_aspect": settings.max_aspect_ratio,
        "max_length_ratio": settings.max_length_ratio,
    }
    con.execute(sql("selected"), limits)


def _read_pairs(con: duckdb.DuckDBPyConnection, settings: PairSettings, norm: Norm) -> pa.Table:
    labels = {"strategy": strategy_label(settings), "norm_id": applied_norm_id(settings, norm)}
    return conform(PAIRS, con.sql(sql("pairs"), params=labels).to_arrow_table())


def _read_skipped(con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric]) -> pa.Table:
    params = {
        "ground_truth": settings.ground_truth,
        "num_metrics": len(metrics),
        "min_margin": settings.min_margin,
    }
    return conform(SKIPPED, con.sql(sql("skipped"), params=params).to_arrow_table())


def _read_excluded(con: duckdb.DuckDBPyConnection, metrics: Sequence[Metric]) -> pa.Table:
    params = {"metrics": [metric.name for metric in metrics], "num_metrics": len(metrics)}
    return conform(EXCLUDED, con.sql(sql("excluded"), params=params).to_arrow_table())


def _warnings(settings: PairSettings, metrics: Sequence[Metric], norm: Norm) -> tuple[str, ...]:
    if not settings.normalise:
        return ()
    constant = [metric.name for metric in metrics if metric.name in norm.constant]
    effect = (
        "so no pair can be strictly better on it" if settings.strategy == "strict" else "it contributes 0 for everyone"
    )
    return tuple(f"metric '{name}' has no variance in population '{norm.population}': {effect}" for name in constant)
