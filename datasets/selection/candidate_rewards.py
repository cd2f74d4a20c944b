"""Rewards of training candidates: the reward formula with the settings of a selection strategy.

Scores come from the score matrix. A candidate that lacks the score of a configured metric has no rewards.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.metric_tables import rewards_table
from avpref.datasets.query_texts import metric_list
from avpref.datasets.reward_formula import MetricScale, MissingScores, create_rewards
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.score_matrix import usable_counts
from avpref.datasets.tables import conform
from avpref.datasets.views import sql
from avpref.domain import Metric, dimensions_of
from avpref.errors import ConfigError, TableError


def strategy_label(settings: PairSettings) -> str:
    """Text that identifies the strategy: name and average, then every parameter that is not the default except ``norm``."""
    parts = [f"{settings.strategy}-{settings.average}"]
    parts += [] if settings.normalise else ["no-norm"]
    parts += [] if settings.ground_truth else ["no-gt"]
    for name, field in PairSettings.model_fields.items():
        value = getattr(settings, name)
        if name not in {"strategy", "average", "normalise", "ground_truth", "norm"} and value != field.default:
            parts.append(f"{name}={value:g}")
    return " ".join(parts)


def applied_norm_id(settings: PairSettings, norm: Norm) -> str:
    """The id of the norm that the rewards depend on; empty for a strategy that does not normalise."""
    return norm.norm_id if settings.normalise else ""


def compute_rewards(
    con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm
) -> None:
    """Create ``normalised_scores`` and ``candidate_rewards`` from the score matrix; call inside ``with score_matrix(…)``.

    Held-out prompts are included. With a frozen ``norm`` new candidates get rewards on the old scale (ranks of ``macro`` are
    always among the candidates themselves). Raises ConfigError where ``settings.norm`` names another norm, TableError where
    the norm lacks a metric that has scores.
    """
    if settings.norm and settings.norm != norm.norm_id:
        found = f"norm {norm.norm_id} given, settings ask for {settings.norm}"
        raise ConfigError(found, "the norm that pairs.norm names", "load that norm, or leave pairs.norm empty")
    con.execute(sql("raw_scores").format(ground_truth=settings.ground_truth))
    scales = _scales(con, settings, metrics, norm)
    create_rewards(con, scales, settings.average, MissingScores.EXCLUDE)


def read_rewards(
    con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm
) -> pa.Table:
    """Table ``rewards`` of the connection's ``candidate_rewards``. Raises TableError where a reward overflowed."""
    labels = {"strategy": strategy_label(settings), "norm_id": applied_norm_id(settings, norm)}
    query = sql("rewards").format(rewards=metric_list("candidate_rewards.{metric}", dimensions_of(metrics)))
    return conform(rewards_table(metrics), con.sql(query, params=labels).to_arrow_table())


def _scales(
    con: duckdb.DuckDBPyConnection, settings: PairSettings, metrics: Sequence[Metric], norm: Norm
) -> list[MetricScale]:
    """A metric that is not normalised, or has no score at all, gets mean 0 and standard deviation 1."""
    statistics = {metric.name: norm.find(metric.name) if settings.normalise else None for metric in metrics}
    if settings.normalise:
        counts = usable_counts(con, metrics)
        _require([name for name, known in statistics.items() if known is None and counts[name]], norm)
    scales = []
    for metric in metrics:
        known = statistics[metric.name]
        mean, std = (known.mean, known.std) if known else (0.0, 1.0)
        scales.append(MetricScale(metric.name, metric.dimension, metric.higher_is_better, mean, std, metric.weight))
    return scales


def _require(lacking: Sequence[str], norm: Norm) -> None:
    if lacking:
        raise TableError(
            f"norm {norm.norm_id} ({norm.population}) has no {', '.join(lacking)}",
            "statistics of every configured metric",
            "leave pairs.norm empty to measure a new norm, or take the metrics out of scoring.metrics",
        )
