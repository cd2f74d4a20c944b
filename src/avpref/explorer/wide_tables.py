"""SQL of the wide tables of an explorer's database; the columns follow the metrics and dimensions of the run."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from avpref.datasets.query_texts import sql

REWARD = "reward_"
"""Prefix of a dimension's reward among the columns of ``clip_rows``."""
PLAIN_COLUMNS = {"candidate_id", "prompt_id", "strategy", "norm_id"}
"""Columns of table ``rewards`` that are no dimensions."""


def quoted(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def wide_tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Statements that make ``clip_rows``, ``pair_rows``, ``held_out_rows`` and ``skipped_rows`` of the run's tables in ``con``."""
    dimensions = dimension_names(con)
    rewards = "\n    ".join(
        f"UNION ALL SELECT candidate_id, {literal(REWARD + name)}, {quoted(name)} FROM rewards"
        for name in _reward_columns(con)
    )
    numbers = [*metric_names(con), *(REWARD + name for name in dimensions)]
    columns = "".join(f",\n    max(value) FILTER (name = {literal(name)}) AS {quoted(name)}" for name in numbers)
    changes = "".join(f",\n        {_change(name)} AS {quoted('change_' + name)}" for name in dimensions)
    total = " + ".join(quoted("change_" + name) for name in dimensions) or "CAST(NULL AS DOUBLE)"
    return [
        sql("clip_rows").format(rewards=rewards, columns=columns),
        sql("pair_rows"),
        sql("held_out_rows").format(changes=changes, total=total),
        sql("skipped_rows"),
    ]


def metric_names(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Metrics with scores, in the order of the score table, then those of judges."""
    query = (
        "SELECT name FROM (SELECT metric AS name, min(rowid) AS place, 0 AS part FROM scores GROUP BY metric"
        " UNION ALL SELECT name, min(rowid), 1 FROM evaluations WHERE kind = 'judge' GROUP BY name)"
        " GROUP BY name ORDER BY min(part), min(place)"
    )
    return [str(name) for (name,) in con.execute(query).fetchall()]


def dimension_names(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Dimensions of the rewards of the run, those of the training clips first."""
    query = "SELECT name FROM evaluations WHERE kind = 'reward' GROUP BY name ORDER BY min(rowid)"
    evaluated = [str(name) for (name,) in con.execute(query).fetchall()]
    return list(dict.fromkeys([*_reward_columns(con), *evaluated]))


def _reward_columns(con: duckdb.DuckDBPyConnection) -> Sequence[str]:
    names = [str(row[0]) for row in con.execute("DESCRIBE rewards").fetchall()]
    return [name for name in names if name not in PLAIN_COLUMNS]


def _change(dimension: str) -> str:
    side = "max(value) FILTER (kind = 'reward' AND name = {name} AND side = '{side}')"
    name = literal(dimension)
    return f"{side.format(name=name, side='policy')} - {side.format(name=name, side='reference')}"
