"""The board: one row per candidate with its raw scores side by side, in an order that does not depend on the files.

It lives in temporary tables of the connection for the length of a ``with`` block; normalisation, rewards and pairing read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from avpref.datasets.views import sql
from avpref.domain import METRIC_BY_NAME, Dimension, Metric
from avpref.errors import ConfigError, TableError

TEMPORARY = (
    *("roster", "board", "contributions", "grades", "standing", "entrants", "dominating", "selected"),
    *("yardstick", "picks"),
)


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Raises ConfigError for an unknown, moved or doubled metric, or a dimension that no metric speaks for."""
    fix = "edit scoring.metrics in the configuration file"
    for metric in metrics:
        known = METRIC_BY_NAME.get(metric.name)
        if known is None or known.dimension is not metric.dimension:
            found = f"metric '{metric.name}' for dimension '{metric.dimension}'"
            expected = ", ".join(f"{one.name} ({one.dimension})" for one in METRIC_BY_NAME.values())
            raise ConfigError(found, f"one of {expected}", fix)
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ConfigError(f"metrics listed twice: {', '.join(names)}", "each metric once", fix)
    for dimension in Dimension:
        if not any(metric.dimension is dimension for metric in metrics):
            raise ConfigError(f"no metric for dimension '{dimension}'", "at least one metric per dimension", fix)


@contextmanager
def board(con: duckdb.DuckDBPyConnection, metrics: Sequence[Metric]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Gather the scores of ``metrics`` over the views ``candidates``, ``scores`` and ``prompts``; dropped on leaving.

    Raises ConfigError (see :func:`check_metrics`) or TableError: doubled candidates, prompts or scores; scores without
    candidate; candidates without prompt (looked for only where there is a prompt table).
    """
    check_metrics(metrics)
    try:
        con.execute(sql("roster"))
        con.execute(sql("board"), {"metrics": [metric.name for metric in metrics]})
        _refuse_faults(con)
        yield con
    finally:
        for name in TEMPORARY:
            con.execute(f"DROP TABLE IF EXISTS temp.{name}")


def usable_counts(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Candidates with a usable number, by metric name; call inside :func:`board`."""
    return con.sql(sql("usable")).to_arrow_table().to_pylist()[0]


def _refuse_faults(con: duckdb.DuckDBPyConnection) -> None:
    counts = con.sql(sql("faults")).to_arrow_table().to_pylist()[0]
    faults = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    if faults:
        raise TableError(
            f"tables that do not belong together: {', '.join(faults)}",
            "unique candidates and prompts, one score per candidate and metric, each with its candidate and prompt",
            "list the files of one sealed table version each",
        )
