"""Selection of preference pairs, as SQL over the score table.

Source: JavisDiT++ §"Preference Data Acquisition", Table 4, and its ranking script, with which the ``modality`` strategy
agrees pair for pair (the average strategies are described in the paper and absent from the script).

* ``modality``: chosen is strictly better in the reward of every dimension; the pair's margin is the sum of the margins.
* ``average``: one reward per candidate, the mean over all metrics; the margin is its difference.
* ``strict``: chosen is strictly better on every single metric that has weight; the margin is the sum of the rewards' differences.

The largest margins of a prompt win, at most ``max_pairs_per_prompt``; ties go to the chosen, then the rejected candidate
that comes first (index, then id). ``min_margin`` is a lower bound (inclusive) on ``margin_total``. Ground truth that the
strategy does not admit counts in the norm, but not in the ranks of ``macro``, as in the published ranking. A candidate
that lacks a configured score (no row, not ok, NaN, infinite) is in no pair; it is listed in ``excluded`` with a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.metric_tables import pairs_table, scored_columns
from avpref.datasets.query_texts import dimension_list, metric_list
from avpref.datasets.selection.candidate_rewards import (
    applied_norm_id,
    compute_rewards,
    read_rewards,
    strategy_label,
)
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.score_matrix import score_matrix
from avpref.datasets.tables import EXCLUDED, SKIPPED, conform
from avpref.datasets.views import sql
from avpref.domain import Metric, dimensions_of


@dataclass(frozen=True)
class Selection:
    """Tables ``pairs``, ``skipped`` (prompts without a pair), ``excluded`` (scores that candidates lack) and ``rewards``,
    with the norm they rest on.

    Every prompt is either in ``pairs`` or in ``skipped``, there with a reason (``queries/skipped.sql`` lists them).
    ``warnings`` are sentences for people.
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
    :func:`avpref.datasets.selection.score_matrix.score_matrix` and
    :func:`avpref.datasets.selection.candidate_rewards.compute_rewards`.
    """
    with score_matrix(con, metrics):
        return _select(con, settings, metrics, norm)


def _select(con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm) -> Selection:
    compute_rewards(con, settings, metrics, norm)
    rank(con, settings, metrics)
    return Selection(
        pairs=_read_pairs(con, settings, metrics, norm),
        skipped=_read_skipped(con, settings, metrics),
        excluded=_read_excluded(con, metrics),
        rewards=read_rewards(con, settings, metrics, norm),
        norm=norm,
        warnings=_warnings(settings, metrics, norm),
    )


def rank(con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric]) -> None:
    """Create the temporary table ``selected`` from ``candidate_rewards`` and, for ``strict``, ``normalised_scores``."""
    con.execute(sql("eligible"))
    dimensions = dimensions_of(metrics)
    total = _sum([f'(chosen."{name}" - rejected."{name}")' for name in dimensions])
    match settings.strategy:
        case "modality":
            is_better = metric_list("chosen.{metric} > rejected.{metric}", dimensions, " AND ")
            con.execute(sql("ordered_pairs_modality").format(total=total, is_better=is_better))
        case "average":
            con.execute(sql("ordered_pairs_average"))
        case "strict":
            names = [metric.name for metric in metrics if metric.weight > 0]
            is_better = metric_list("chosen.{metric} > rejected.{metric}", names, " AND ")
            con.execute(sql("ordered_pairs_strict").format(total=total, is_better=is_better))
    limits = {
        "min_margin": settings.min_margin,
        "max_pairs": settings.max_pairs_per_prompt,
        "min_aspect": settings.min_aspect_ratio,
        "max_aspect": settings.max_aspect_ratio,
        "max_length_ratio": settings.max_length_ratio,
    }
    margins = dimension_list('chosen."{dimension}" - rejected."{dimension}" AS "margin_{dimension}"', dimensions)
    con.execute(sql("selected").format(margins=margins), limits)


def _sum(terms: Sequence[str]) -> str:
    """The sum of SQL expressions, added from the left."""
    return functools.reduce(lambda first, second: f"({first} + {second})", terms)


def _read_pairs(
    con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm
) -> pa.Table:
    labels = {"strategy": strategy_label(settings), "norm_id": applied_norm_id(settings, norm)}
    margins = dimension_list('selected."margin_{dimension}"', dimensions_of(metrics))
    query = sql("pairs").format(scores=", ".join(_score_columns(metrics)), margins=margins)
    return conform(pairs_table(metrics), con.sql(query, params=labels).to_arrow_table())


def _score_columns(metrics: Sequence[Metric]) -> Iterator[str]:
    """Raw and normalised score of both sides for each metric of the pair table; NULL where it is not configured."""
    configured = {metric.name for metric in metrics}
    for name in scored_columns(metrics):
        for side in ("chosen", "rejected"):
            for source, column in (("raw", f"{side}_{name}"), ("normalised", f"{side}_{name}_normalised")):
                yield f'{side}_{source}."{name}" AS "{column}"' if name in configured else f'NULL::DOUBLE AS "{column}"'


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
