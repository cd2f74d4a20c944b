"""DuckDB over the tables of a run: one view per table, over explicitly listed files.

Every table of the schema has a view; a table without files has an empty one, so queries always find their tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets.metric_tables import as_written, is_former, with_dimension
from avpref.datasets.query_texts import QUERIES, sql
from avpref.datasets.tables import TABLE_BY_NAME, TABLES, Table, check_file, conform, to_arrow
from avpref.domain import ALL_DIMENSIONS
from avpref.errors import TableError

__all__ = ["QUERIES", "Limits", "connect", "connect_locked", "connect_tables", "open_connection", "sql"]


@dataclass(frozen=True)
class Limits:
    """Resource limits of DuckDB. ``memory`` in DuckDB's syntax (``4GB``); ``spill``: folder for data beyond that.

    None means DuckDB's default: all threads, four fifths of the memory, its own spill folder.
    """

    threads: int | None = None
    memory: str | None = None
    spill: Path | None = None


def connect(files: Mapping[str, Sequence[Path]], limits: Limits | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with one view per table over exactly the given Parquet files (never a glob).

    Raises TableError for a name that is no table, or a file that is absent or not of that table; SchemaVersionError.
    """
    con = open_connection(limits or Limits())
    _refuse_unknown(files)
    for table in TABLES:
        paths = list(files.get(table.name, ()))
        for path in paths:
            check_file(path, table)
        _view(con, table, paths)
    return con


def connect_tables(tables: Mapping[str, pa.Table], limits: Limits | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with one view per table over Arrow tables in memory. Raises TableError for one that does not conform."""
    con = open_connection(limits or Limits())
    _refuse_unknown(tables)
    for table in TABLES:
        con.register(table.name, _present(table, tables[table.name]) if table.name in tables else to_arrow(table, []))
    return con


def connect_locked(tables: Mapping[str, pa.Table], limits: Limits | None = None) -> duckdb.DuckDBPyConnection:
    """As :func:`connect_tables`, for untrusted SQL: no files, network, extensions or changes of settings."""
    con = connect_tables(tables, limits)
    for setting in ("enable_external_access", "autoinstall_known_extensions", "autoload_known_extensions"):
        con.execute(f"SET {setting} = false")
    con.execute("SET lock_configuration = true")
    return con


def open_connection(limits: Limits) -> duckdb.DuckDBPyConnection:
    """A connection without views, to a database in memory."""
    settings = {
        "python_enable_replacements": "false",
        "threads": limits.threads,
        "memory_limit": limits.memory,
        "temp_directory": limits.spill,
    }
    return duckdb.connect(config={key: str(value) for key, value in settings.items() if value is not None})


def _present(table: Table, arrow: pa.Table) -> pa.Table:
    present = with_dimension(arrow) if is_former(table, arrow.schema) else arrow
    return conform(as_written(table, arrow.schema), present)


def _refuse_unknown(names: Mapping[str, object]) -> None:
    unknown = sorted(set(names) - set(TABLE_BY_NAME))
    if unknown:
        raise TableError(f"no table is called {', '.join(unknown)}", f"one of {', '.join(TABLE_BY_NAME)}")


def _view(con: duckdb.DuckDBPyConnection, table: Table, paths: Sequence[Path]) -> None:
    """A view over listed files; the list is a connection variable, because table functions accept no subqueries."""
    if not paths:
        con.register(table.name, to_arrow(table, []))
        return
    con.execute(f"SET VARIABLE files_{table.name} = $files", {"files": [str(path) for path in paths]})
    dimension = f", '{ALL_DIMENSIONS}' AS dimension" if is_former(table, pq.read_schema(paths[0])) else ""
    con.execute(
        f"CREATE VIEW {table.name} AS SELECT *{dimension} FROM read_parquet(getvariable('files_{table.name}'),"
        " hive_partitioning = false, union_by_name = false)"
    )
