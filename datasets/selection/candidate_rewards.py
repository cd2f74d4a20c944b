"""Rewards: raw scores → direction and normalisation → average per dimension.

Source: JavisDiT++ §"Reward Models" and its ranking script. ``micro`` averages the normalised scores; ``macro`` averages
ranks over all admitted candidates (ascending, ties share the mean rank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.score_matrix import board, usable_counts
from avpref.datasets.tables import REWARDS, conform
from avpref.datasets.views import sql
from avpref.domain import METRICS, Dimension, Metric
from avpref.errors import ConfigError, TableError


@dataclass(frozen=True)
class Scale:
    """Mean, std and sign of the seven metrics in the domain's order; contribution = sign · (score − mean) / std.

    A metric that is not configured, or has no value, gets an entry that is never used.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sign: tuple[float, ...]


def strategy_label(settings: PairSettings) -> str:
    """The strategy in words: its name and average, then every parameter that is not the default, ``norm`` excepted."""
    parts = [f"{settings.strategy}-{settings.average}"]
    parts += [] if settings.normalise else ["no-norm"]
    parts += [] if settings.ground_truth else ["no-gt"]
    for name, field in PairSettings.model_fields.items():
        value = getattr(settings, name)
        if name not in {"strategy", "average", "normalise", "ground_truth", "norm"} and value != field.default:
            parts.append(f"{name}={value:g}")
    return " ".join(parts)


def applied_norm_id(settings: PairSettings, norm: Norm) -> str:
    """The id of the norm that shapes the numbers; empty for a strategy that does not normalise."""
    return norm.norm_id if settings.normalise else ""


def rewards(con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm) -> pa.Table:
    """Table ``rewards`` for every admitted candidate that has all configured scores, held-out prompts included.

    With a frozen ``norm`` this puts a new batch on the old scale (``macro`` ranks are always those of the batch itself).
    Raises as :func:`avpref.datasets.selection.score_matrix.board` and :func:`stand`.
    """
    with board(con, metrics):
        stand(con, settings, metrics, norm)
        return read_rewards(con, settings, norm)


def read_rewards(con: duckdb.DuckDBPyConnection, settings: PairSettings, norm: Norm) -> pa.Table:
    """The rewards of the present standing; call after :func:`stand`. Raises TableError where a reward overflowed."""
    labels = {"strategy": strategy_label(settings), "norm_id": applied_norm_id(settings, norm)}
    return conform(REWARDS, con.sql(sql("rewards"), params=labels).to_arrow_table())


def stand(con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm) -> None:
    """Fill the temporary tables ``contributions`` and ``standing`` from the board; call inside ``with board(…)``.

    Raises ConfigError where ``settings.norm`` names another norm, TableError where the norm lacks a metric that has values.
    """
    if settings.norm and settings.norm != norm.norm_id:
        found = f"norm {norm.norm_id} given, settings ask for {settings.norm}"
        raise ConfigError(found, "the norm that pairs.norm names", "load that norm, or leave pairs.norm empty")
    scale = _scale(con, settings, metrics, norm)
    admitted = {"ground_truth": settings.ground_truth}
    con.execute(sql("contributions"), {"mean": scale.mean, "std": scale.std, "sign": scale.sign, **admitted})
    match settings.average:
        case "micro":
            con.execute(sql("grades_micro"))
        case "macro":
            con.execute(sql("grades_macro"))
    counts = {f"num_{dimension}": sum(one.dimension is dimension for one in metrics) for dimension in Dimension}
    con.execute(sql("standing"), {**counts, "num_metrics": len(metrics)})


def _scale(con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm) -> Scale:
    direction = {metric.name: 1.0 if metric.higher_is_better else -1.0 for metric in metrics}
    sign = tuple(direction.get(metric.name, 1.0) for metric in METRICS)
    if not settings.normalise:
        return Scale((0.0,) * len(METRICS), (1.0,) * len(METRICS), sign)
    found = {metric.name: norm.find(metric.name) for metric in metrics}
    counts = usable_counts(con)
    lacking = [name for name, one in found.items() if one is None and counts[name]]
    if lacking:
        raise TableError(
            f"norm {norm.norm_id} ({norm.population}) has no {', '.join(lacking)}",
            "statistics of every configured metric",
            "leave pairs.norm empty to measure a new norm, or take the metrics out of scoring.metrics",
        )
    entries = [found.get(metric.name) for metric in METRICS]
    return Scale(
        tuple(one.mean if one else 0.0 for one in entries),
        tuple(one.std if one else 1.0 for one in entries),
        sign,
    )
