"""The tables of a pool in one read-only DuckDB file for its pages: ``clip_rows``, ``source_rows`` and ``lost_rows``.

The file is made once per set of table versions; a pool that continues gets a new one.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from avpref.datasets.tables import to_arrow
from avpref.errors import InputError, StorageError
from avpref.explorer.grids import Grid
from avpref.explorer.made_files import MadeFiles, made_files_of
from avpref.explorer.run_database import LOCKED, lock
from avpref.explorer.wide_tables import literal, quoted
from avpref.identity import digest
from avpref.pool.lost_items import STAGES, all_lost, lost_file
from avpref.pool.pool_folder import PoolFolder, open_pool_folder, sql
from avpref.pool.pool_tables import LOST, POOL_TABLES
from avpref.storage.local_files import temporary_of

LAYOUT = 1
"""Number of the layout of the file; a change of the tables changes it, so that old files are not read."""
LOOK_S = 1.0
"""Seconds after which the versions of a pool's tables are read again."""
SHOWN_MEASURES = ("brightness", "flow_px", "loudness_lufs", "speech_share", "text_regions", "sync_error_s")
GRIDS = {
    grid.name: grid
    for grid in (
        Grid(
            "clips",
            "Clips",
            "clip_rows",
            ("source", "start_s", "length_s", "decision", "reason", *SHOWN_MEASURES, "text", "clip_id"),
            ("source", "clip_id", "text", "reason", "decision"),
            "clip_id",
        ),
        Grid(
            "sources",
            "Sources",
            "source_rows",
            ("source", "state", "reason", "clips", "kept", "duration_s", "height_px", "fps_hz", "audio_codec"),
            ("source", "reason", "uri", "member"),
            "source_id",
        ),
        Grid(
            "lost",
            "Not in the result",
            "lost_rows",
            ("uri", "member", "stage", "reason", "hours"),
            ("uri", "member", "reason"),
            "item",
        ),
    )
}


@dataclass
class OpenedPool:
    """A pool as its pages have it open: folder, made files, and the database of its present tables."""

    folder: PoolFolder
    made: MadeFiles
    _con: duckdb.DuckDBPyConnection | None = None
    _key: str = ""
    _looked_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """The pool's name."""
        return self.folder.root.name

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one request. Raises StorageError where the database cannot be written."""
        with self._lock:
            if self._con is None or time.monotonic() - self._looked_s >= LOOK_S:
                self._open()
                self._looked_s = time.monotonic()
            assert self._con is not None
            return self._con.cursor()

    def clip(self, clip_id: str) -> dict[str, Any]:
        """The row of a clip. Raises InputError where the pool has no such clip."""
        result = self.cursor().execute("SELECT * FROM clip_rows WHERE clip_id = $clip", {"clip": clip_id})
        names, row = [column[0] for column in result.description or ()], result.fetchone()
        if row is None:
            raise InputError(f"pool {self.name} has no clip {clip_id}", "the id of a clip of this pool")
        return dict(zip(names, row, strict=True))

    def _open(self) -> None:
        self.folder = open_pool_folder(self.folder.runs, self.name)
        versions = [(table.name, manifest.version) for table in POOL_TABLES if (manifest := _current(self, table.name))]
        lost = [self.folder.documents.read(lost_file(stage)) for stage in STAGES]
        key = digest("pool pages", LAYOUT, versions, lost)
        if self._con is not None and key == self._key:
            return
        path = self.made.root / f"tables-{key}.duckdb"
        if not path.exists():
            _write(self.folder, path)
            for former in set(self.made.root.glob("tables-*")) - {path}:
                former.unlink(missing_ok=True)
        con = duckdb.connect(str(path), read_only=True, config=dict(LOCKED))
        lock(con)
        self._con, self._key = con, key  # cursors keep a former one open


def open_pool_pages(pools: Path, pool: str) -> OpenedPool:
    """The pages' view of a pool. Raises as :func:`avpref.pool.pool_folder.open_pool_folder`."""
    folder = open_pool_folder(pools, pool)
    return OpenedPool(folder, made_files_of(folder.runs, folder.root.name))


def _current(opened: OpenedPool, table: str) -> Any:
    return opened.folder.tables.current(table)


def _write(folder: PoolFolder, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        with folder.connect() as con:
            con.register("lost_now", to_arrow(LOST, all_lost(folder)))
            con.execute(f"ATTACH {literal(str(temporary))} AS made")
            con.execute(f"CREATE TABLE made.clip_rows AS {sql('page_clips').format(columns=_columns(con))}")
            con.execute(f"CREATE TABLE made.source_rows AS {sql('page_sources')}")
            con.execute("CREATE TABLE made.lost_rows AS SELECT * FROM lost_now")
            con.execute("DETACH made")
        os.replace(temporary, path)
    except (duckdb.Error, OSError) as error:
        found = f"cannot write {path}: {str(error).splitlines()[0]}"
        fix = f"make room for a copy of the pool's tables (df -h {path.parent}), or delete {path.parent}"
        raise StorageError(found, "a disk with space for a database of the pool's tables", fix) from error
    finally:
        temporary.unlink(missing_ok=True)


def _columns(con: duckdb.DuckDBPyConnection) -> str:
    """The measures as aggregates with their names."""
    query = "SELECT DISTINCT measure FROM all_measures WHERE len(vector) = 0 ORDER BY measure"
    names = [str(name) for (name,) in con.execute(query).fetchall()]
    return "".join(f",\n           max(value) FILTER (measure = {literal(name)}) AS {quoted(name)}" for name in names)
