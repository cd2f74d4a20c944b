"""A run's sealed tables in one read-only DuckDB file, with wide tables for pages: ``clip_rows``, ``pair_rows``, ``held_out_rows``.

The file is made once per set of table versions, batch by batch, so memory stays bounded; a run that continues gets a new file.
A table that does not exist yet, or whose files were changed, is empty in it and listed with the reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from avpref.datasets import tables
from avpref.datasets.metric_tables import Table
from avpref.domain import Candidate
from avpref.errors import AvprefError, StorageError, TableError
from avpref.explorer.wide_tables import wide_tables
from avpref.identity import digest
from avpref.storage.local_files import temporary_of
from avpref.storage.run_folder import RunFolder
from avpref.storage.sibling_runs import SiblingRun, UnitFile, units_by_fingerprint
from avpref.storage.table_readers import as_candidates

LAYOUT = 1
"""Number of the layout of the file; a change of the wide tables changes it, so that old files are not read."""
MEMORY, THREADS = "160MB", 2
LOCKED = {
    "threads": str(THREADS),
    "memory_limit": MEMORY,
    "temp_directory": "",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
"""Settings of every connection: bounded, without files beside the database."""
NOT_YET = "not made yet"
ABSENT = "absent_tables"
"""Table of the absent tables."""
POLICY_CLIPS = "policy_clips"
"""Table of the policy's held-out clips, which no sealed table lists."""


@dataclass(frozen=True)
class Absence:
    """A table without rows in the database, and why."""

    table: str
    reason: str


@dataclass(frozen=True)
class RunDatabase:
    """The file, the versions of the tables in it, and the tables that are absent from it."""

    path: Path
    versions: tuple[tuple[str, str], ...]
    absent: tuple[Absence, ...]
    con: duckdb.DuckDBPyConnection

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one request."""
        return self.con.cursor()

    def close(self) -> None:
        """Close the database; the file stays."""
        self.con.close()


def table_versions(folder: RunFolder) -> dict[str, str]:
    """Name → version of every sealed table; a broken manifest has the version ``broken: reason``."""
    versions: dict[str, str] = {}
    for table in tables.TABLES:
        try:
            manifest = folder.tables.current(table.name)
        except AvprefError as error:
            versions[table.name] = f"broken: {error.found}"
            continue
        if manifest is not None:
            versions[table.name] = manifest.version
    return versions


def open_database(folder: RunFolder, made: Path) -> RunDatabase:
    """The database of the run's current tables in folder ``made``; it is written unless it exists.

    Raises StorageError where ``made`` or the run's store cannot be reached.
    """
    versions = table_versions(folder)
    policy = _policy_units(folder) if tables.EVALUATIONS.name in versions else []
    key = digest("explorer database", LAYOUT, folder.run_id, versions, [file.name for file in policy])
    path = made / f"tables-{key}.duckdb"
    if not path.exists():
        _write(folder, path, policy)
        _remove_others(made, key)
    con = duckdb.connect(str(path), read_only=True, config=dict(LOCKED))
    lock(con)
    absent = con.execute(f"SELECT name, reason FROM {ABSENT}").fetchall()
    return RunDatabase(path, tuple(sorted(versions.items())), tuple(Absence(*row) for row in absent), con)


def lock(con: duckdb.DuckDBPyConnection) -> None:
    """Switch files, network and changes of settings off; a database that this process has open already is locked already."""
    (is_locked,) = con.execute("SELECT current_setting('lock_configuration')").fetchone() or (False,)
    if not is_locked:
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")


def _write(folder: RunFolder, path: Path, policy: Sequence[UnitFile]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    spill = temporary.with_suffix(".spill")
    try:
        with contextlib.closing(duckdb.connect(str(temporary), config={**LOCKED, "temp_directory": str(spill)})) as con:
            con.execute(f"CREATE TABLE {ABSENT} (name VARCHAR, reason VARCHAR)")
            for table in tables.TABLES:
                reason = _copy(con, table.name, _parts(folder, table))
                if reason:
                    con.execute(f"INSERT INTO {ABSENT} VALUES ($1, $2)", [table.name, reason])
            _copy(con, POLICY_CLIPS, _rows_of(policy))
            for statement in wide_tables(con):
                con.execute(statement)
        os.replace(temporary, path)
    except (duckdb.Error, OSError) as error:
        found = f"cannot write {path}: {str(error).splitlines()[0]}"
        fix = f"make room for a copy of the run's tables (df -h {path.parent}), or delete {path.parent}"
        raise StorageError(found, "a disk with space for a database of the run's tables", fix) from error
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(spill, ignore_errors=True)


def _parts(folder: RunFolder, table: Table) -> Iterator[pa.Table]:
    """The rows of a sealed table in batches. Raises TableError for a damaged one, and with :data:`NOT_YET` for an absent one."""
    if not folder.tables.has(table):
        raise TableError(NOT_YET)
    rows = iter(folder.tables.batches(table))
    first = next(rows, None)
    yield tables.to_arrow(table, []) if first is None else first
    yield from rows


def _copy(con: duckdb.DuckDBPyConnection, name: str, parts: Iterator[pa.Table]) -> str:
    """Make the table ``name`` of ``parts``; returns why it is empty, or nothing."""
    is_made, reason = False, ""
    try:
        for part in parts:
            con.register("part", part)
            con.execute(f"{f'INSERT INTO {name}' if is_made else f'CREATE TABLE {name} AS'} SELECT * FROM part")
            con.unregister("part")
            is_made = True
    except AvprefError as error:
        reason = " ".join(error.found.split())
    if reason:
        con.execute(f"DROP TABLE IF EXISTS {name}")
        is_made = False
    if not is_made:
        con.register("part", tables.to_arrow(tables.TABLE_BY_NAME.get(name, tables.CANDIDATES), []))
        con.execute(f"CREATE TABLE {name} AS SELECT * FROM part")
        con.unregister("part")
    return reason


def _policy_units(folder: RunFolder) -> list[UnitFile]:
    """The committed units of the policy's held-out clips; pages use only clips that the sealed evaluation names."""
    own = SiblingRun("", folder.files)
    return [file for files in units_by_fingerprint([own], "evaluate") for file in files]


def _rows_of(files: Sequence[UnitFile]) -> Iterator[pa.Table]:
    for file in files:
        rows = file.rows()
        if rows is not None:
            yield tables.conform(tables.CANDIDATES, rows)


def _remove_others(made: Path, key: str) -> None:
    """Remove databases of former table versions. A server that still has one open keeps its contents."""
    for path in made.glob("tables-*"):
        if key not in path.name:
            path.unlink(missing_ok=True)


def arrow_of(con: duckdb.DuckDBPyConnection, query: str, **parameters: str) -> pa.Table:
    """The rows of ``query`` as an Arrow table."""
    return con.sql(query, params=parameters or None).to_arrow_table()


def candidate_of(database: RunDatabase, candidate_id: str) -> Candidate | None:
    """A training, reference or policy clip by its full id; None where the run has no such clip."""
    for table in (tables.CANDIDATES.name, POLICY_CLIPS):
        query = f"SELECT * FROM {table} WHERE candidate_id = $candidate LIMIT 1"
        candidates = as_candidates(arrow_of(database.cursor(), query, candidate=candidate_id))
        if candidates:
            return candidates[0]
    return None
