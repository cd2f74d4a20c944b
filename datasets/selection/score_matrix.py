"""The score matrix: one row per candidate and one column per metric, in an order that does not depend on the files.

It consists of temporary tables of the connection that exist inside a ``with`` block; normalisation, rewards and pairing
read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from avpref.datasets.metric_selection import check_metrics
from avpref.datasets.query_texts import metric_list
from avpref.datasets.views import sql
from avpref.domain import Metric
from avpref.errors import TableError

TABLES = (
    *("candidate_index", "score_matrix", "normalised_scores", "candidate_rewards", "eligible", "ordered_pairs"),
    *("selected", "common_rewards", "selected_by_strategy"),
)
"""Temporary tables of a selection. There is also the temporary view ``raw_scores``."""


@contextmanager
def score_matrix(con: duckdb.DuckDBPyConnection, metrics: Sequence[Metric]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Gather the scores of ``metrics`` from the views ``candidates``, ``scores`` and ``prompts``; dropped on leaving.

    Raises ConfigError (see :func:`avpref.datasets.metric_selection.check_metrics`) or TableError: doubled candidates, prompts or
    scores; scores without
    candidate; candidates without prompt (checked only where there is a prompt table).
    """
    check_metrics(metrics)
    names = [metric.name for metric in metrics]
    scores = metric_list("max(CASE WHEN metric = $metrics[{number}] THEN value END) AS {metric}", names)
    try:
        con.execute(sql("candidate_index"))
        con.execute(sql("score_matrix").format(scores=scores), {"metrics": names})
        _refuse_faults(con)
        yield con
    finally:
        con.execute("DROP VIEW IF EXISTS temp.raw_scores")
        for name in TABLES:
            con.execute(f"DROP TABLE IF EXISTS temp.{name}")


def usable_counts(con: duckdb.DuckDBPyConnection, metrics: Sequence[Metric]) -> dict[str, int]:
    """Number of candidates with a usable score, by metric name; call inside :func:`score_matrix` of these metrics."""
    counts = metric_list("count({metric}) AS {metric}", [metric.name for metric in metrics])
    return con.sql(sql("usable_counts").format(counts=counts)).to_arrow_table().to_pylist()[0]


def _refuse_faults(con: duckdb.DuckDBPyConnection) -> None:
    counts = con.sql(sql("faults")).to_arrow_table().to_pylist()[0]
    faults = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    if faults:
        raise TableError(
            f"tables that do not belong together: {', '.join(faults)}",
            "unique candidates and prompts, one score per candidate and metric, each with its candidate and prompt",
            "list the files of one sealed table version each",
        )
