"""SQL of users over a run's tables: one query that reads, in a connection of its own, with limits of time, memory and rows.

The connection reads the database of :mod:`avpref.explorer.run_database` and nothing else: DuckDB's access to files, network and
extensions is off, its configuration locked, and the database is attached read-only.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from avpref.errors import ConfigError
from avpref.explorer.run_database import LOCKED, lock
from avpref.explorer.wide_tables import literal

MAX_ROWS, MAX_SECONDS, MAX_CELL = 1000, 10.0, 2000
EXAMPLE = "SELECT prompt, margin_total FROM pair_rows ORDER BY margin_total DESC LIMIT 20"
EXPECTED = "one query that reads the run's tables (SELECT, FROM, DESCRIBE, SHOW TABLES)"
SLOTS = threading.BoundedSemaphore(2)
"""At most two queries of users run at a time."""


@dataclass(frozen=True)
class Answer:
    """Names of the columns, the first :data:`MAX_ROWS` rows, whether there are more, and the seconds that it took."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    is_cut: bool
    seconds: float


def answer(path: Path, text: str, max_seconds: float = MAX_SECONDS) -> Answer:
    """The rows of one query over the database at ``path``.

    Raises ConfigError for a statement that does not only read, that needs anything but the run's tables, that is wrong, or that
    needs more than ``max_seconds`` or the memory of :data:`avpref.explorer.run_database.MEMORY`.
    """
    statement = _only_statement(text)
    if not SLOTS.acquire(timeout=max_seconds):
        raise ConfigError("two other queries are running", EXPECTED, "wait for them to end")
    try:
        return _run(path, statement, max_seconds)
    finally:
        SLOTS.release()


def _only_statement(text: str) -> str:
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise _refused(error) from error
    if len(statements) != 1:
        raise ConfigError(f"{len(statements)} statements", EXPECTED, f"try: {EXAMPLE}")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise ConfigError(f"a statement of kind {statements[0].type.name}", EXPECTED, f"try: {EXAMPLE}")
    return statements[0].query.strip().rstrip(";")


def _run(path: Path, statement: str, max_seconds: float) -> Answer:
    begun = time.monotonic()
    with contextlib.closing(duckdb.connect(":memory:", config=dict(LOCKED))) as con:
        con.execute(f"ATTACH {literal(str(path))} AS run (READ_ONLY)")
        con.execute("USE run")
        lock(con)
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            con.interrupt()

        timer = threading.Timer(max_seconds, stop)
        timer.start()
        try:
            result = con.execute(f"SELECT * FROM ({statement}\n) LIMIT {MAX_ROWS + 1}")
            columns = [str(column[0]) for column in result.description or ()]
            rows = result.fetchall()
        except duckdb.Error as error:
            if is_late.is_set():
                expected = f"an answer within {max_seconds:g} s"
                raise ConfigError("the query took too long and was stopped", expected, "add a filter") from error
            raise _refused(error) from error
        finally:
            timer.cancel()
    seconds = time.monotonic() - begun
    return Answer(columns, [[_cell(value) for value in row] for row in rows[:MAX_ROWS]], len(rows) > MAX_ROWS, seconds)


def _cell(value: Any) -> Any:
    return value[:MAX_CELL] + "…" if isinstance(value, str) and len(value) > MAX_CELL else value


def _refused(error: duckdb.Error) -> ConfigError:
    first_line = str(error).splitlines()[0]
    return ConfigError(first_line, EXPECTED, f"try: {EXAMPLE}")
