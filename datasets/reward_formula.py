"""The reward formula: raw scores of any list of metrics become rewards per dimension. Nothing else computes rewards.

1. Normalise: sign · (score − mean) / std, so that higher is better; 0 where the metric has no variance.
2. With ``macro`` averaging, replace the normalised score by its rank among all rows (ascending, ties share the mean rank).
3. Apply the policy for missing scores, :class:`MissingScores`.
4. Reward of a dimension = weighted mean over its metrics; ``overall`` = weighted mean over all metrics. Weights are 1 unless
   ``scoring.weights`` lists others, which is the mean of the paper.

Pairs (:mod:`avpref.datasets.selection.candidate_rewards`) and the gate (:mod:`avpref.datasets.evidence.evaluation`) call
:func:`create_rewards`; reports read the rewards that the two have sealed. The formula is SQL (``reward_macros``,
``normalised_scores``, ``candidate_rewards``), because tables of ten million candidates must fit into bounded memory.

Source: JavisDiT++ §"Reward Models" and its ranking script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import duckdb

from avpref.datasets.query_texts import metric_list, sql
from avpref.domain import Dimension

Average = Literal["micro", "macro"]

MACROS = ("normalised", "mean_rank", "worst_if_missing")


class MissingScores(StrEnum):
    """How a row counts that lacks the score of a metric.

    ``EXCLUDE``, for pairs: the row has no rewards, so no pair rests on an incomplete comparison.
    ``WORST``, for the gate: the row counts as the worst row of that metric, so that a model never gains by generating clips
    that cannot be scored; where no row of the prompt has a score, the dimension has no reward.
    """

    EXCLUDE = "exclude"
    WORST = "worst"


@dataclass(frozen=True)
class MetricScale:
    """A metric that enters rewards, with mean and standard deviation of the norm (0 and 1: not normalised)."""

    name: str
    dimension: str
    higher_is_better: bool
    mean: float
    std: float
    weight: float = 1.0


def create_rewards(
    con: duckdb.DuckDBPyConnection, metrics: Sequence[MetricScale], average: Average, missing: MissingScores
) -> None:
    """Create the temporary tables ``normalised_scores`` and ``candidate_rewards`` of the connection.

    In: table or view ``raw_scores`` with columns ``ordinal``, ``prompt_id`` and one per metric; NULL is a missing score.
    Out: ``normalised_scores`` has a column per metric, ``candidate_rewards`` one per dimension and ``overall``; a dimension
    of the built-in three that no metric measures is NULL. Terms are added in the order of ``metrics``.
    """
    names = [metric.name for metric in metrics]
    parameters = {
        "mean": [metric.mean for metric in metrics],
        "std": [metric.std for metric in metrics],
        "sign": [1.0 if metric.higher_is_better else -1.0 for metric in metrics],
    }
    normalised = metric_list(
        "normalised({metric}, $mean[{number}], $std[{number}], $sign[{number}]) AS {metric}", names
    )
    rewards = sql("candidate_rewards").format(
        values=metric_list(_value(average), names),
        filled=metric_list(_filled(missing), names),
        rewards=", ".join(_means(metrics)),
        kept=_kept(missing),
    )
    con.execute(sql("reward_macros"))
    try:
        con.execute(sql("normalised_scores").format(normalised=normalised), parameters)
        con.execute(rewards)
    finally:
        for macro in MACROS:
            con.execute(f"DROP MACRO IF EXISTS temp.{macro}")


def _value(average: Average) -> str:
    match average:
        case "micro":
            return "{metric}"
        case "macro":
            return "mean_rank({metric}) AS {metric}"


def _filled(missing: MissingScores) -> str:
    match missing:
        case MissingScores.EXCLUDE:
            return "{metric}"
        case MissingScores.WORST:
            return "worst_if_missing({metric}, prompt_id) AS {metric}"


def _kept(missing: MissingScores) -> str:
    """A sum with a NULL is NULL, so ``overall`` is there exactly where no score is missing."""
    match missing:
        case MissingScores.EXCLUDE:
            return "overall IS NOT NULL"
        case MissingScores.WORST:
            return "true"


def _means(metrics: Sequence[MetricScale]) -> list[str]:
    dimensions = dict.fromkeys([*Dimension, *(metric.dimension for metric in metrics)])
    means = [f'{_mean([m for m in metrics if m.dimension == d])} AS "{d}"' for d in dimensions]
    return [*means, f"{_mean(metrics)} AS overall"]


def _mean(metrics: Sequence[MetricScale]) -> str:
    """A term of weight 1 is the bare value, which has the same bits as the product."""
    if not metrics:
        return "NULL::DOUBLE"
    terms = [
        metric_list("{metric}" if metric.weight == 1 else f"{metric.weight!r}::DOUBLE * {{metric}}", [metric.name])
        for metric in metrics
    ]
    return f"(0.0::DOUBLE + {' + '.join(terms)}) / {sum(metric.weight for metric in metrics)!r}::DOUBLE"
