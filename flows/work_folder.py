"""A folder that stages work for: committed units, sealed tables, small documents, events, one owner at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from avpref import __version__
from avpref.cluster import Unit
from avpref.datasets import tables, views
from avpref.datasets.rows import QuarantineRow
from avpref.datasets.tables import Table
from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError
from avpref.flows.ownership import owned
from avpref.flows.units import UnitFiles
from avpref.identity import digest
from avpref.logs import EventLog
from avpref.store import Manifest, TableStore, replace, sweep_temporaries


@dataclass(frozen=True)
class WorkFolder:
    """A folder and what is in it; :class:`avpref.flows.run_folder.RunFolder` is one of a run."""

    root: Path

    @property
    def events(self) -> EventLog:
        """The structured log."""
        return EventLog(self.root / "events.jsonl")

    @property
    def tables(self) -> TableStore:
        """Sealed tables."""
        return TableStore(self.root / "tables")

    def units(self, table: Table) -> UnitFiles:
        """Committed units whose rows belong to ``table``."""
        return UnitFiles(self.root / "units", table)

    def fingerprint(self, stage: str, *parts: object) -> str:
        """Stage fingerprint: the product's version, the schema's, and everything that the stage depends on."""
        return digest(stage, __version__, SCHEMA_VERSION, *parts)

    def is_sealed(self, table: Table, fingerprint: str) -> bool:
        """Whether the current version of ``table`` was made from exactly these inputs."""
        manifest = self.tables.current(table.name)
        return manifest is not None and manifest.fingerprint == fingerprint

    def seal(self, table: Table, fingerprint: str, rows: pa.Table) -> Manifest:
        """Write ``rows`` as the current version of ``table``."""
        return self.tables.seal(table.name, fingerprint, [(tables.to_bytes(rows), rows.num_rows)])

    def read(self, table: Table) -> pa.Table:
        """The current version of ``table``, compared with its hashes.

        Raises InputError where the stage that makes it has not run, TableError where a file is missing or was changed.
        """
        manifest = self.tables.current(table.name)
        if manifest is None:
            fix = f"avpref runs resume {self.root.name} --runs {self.root.parent}"
            raise InputError(f"{self.root.name} has no table {table.name} yet", "a finished stage", fix)
        return tables.read_all(self._verified(manifest), table)

    def _verified(self, manifest: Manifest) -> list[Path]:
        """The files of a sealed version. A file is hashed once by a process, and again only if it has changed since."""
        paths = self.tables.paths(manifest)
        _verify(self.tables, manifest, tuple(_look(path) for path in paths))
        return paths

    def has(self, table: Table) -> bool:
        """Whether ``table`` has a sealed version."""
        return self.tables.current(table.name) is not None

    def seal_units(self, table: Table, units: Sequence[Unit]) -> list[QuarantineRow]:
        """Compact finished units into one sealed version of ``table``; returns what they quarantined."""
        fingerprint = digest("units", [[unit.fingerprint, unit.name] for unit in units])
        rows, quarantined = self.units(table).read(units)
        if not self.is_sealed(table, fingerprint):
            self.seal(table, fingerprint, tables.conform(table, rows, fingerprint))
        return quarantined

    def num_rows(self, table: Table) -> int:
        """Rows of the current version of ``table``, from its manifest; 0 where there is none."""
        manifest = self.tables.current(table.name)
        return 0 if manifest is None else manifest.rows

    def connect(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with one view per sealed table in the folder, over the manifests' files. Raises TableError as :meth:`read`."""
        manifests = [self.tables.current(table.name) for table in tables.TABLES]
        return views.connect({found.table: self._verified(found) for found in manifests if found is not None})

    def write_json(self, name: str, document: Any) -> None:
        """Replace a small JSON document."""
        replace(self.root / name, json.dumps(document, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """A JSON document, or None."""
        path = self.root / name
        return json.loads(path.read_text()) if path.exists() else None

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of the block; see :func:`avpref.flows.ownership.owned`."""
        with owned(self.root, wait):
            self.record_settings()
            sweep_temporaries(self.root)
            yield

    def record_settings(self) -> None:
        """Make the folder say what this execution was asked for; called by its owner."""


Look = tuple[int, int, int]
"""Inode, bytes, and nanoseconds of the last change of a file; none of these where there is no file."""


def _look(path: Path) -> Look | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=256)
def _verify(store: TableStore, manifest: Manifest, looks: tuple[Look | None, ...]) -> None:
    """Compare a version's files with their hashes; what passed is remembered for as long as the files look the same."""
    store.verify(manifest)
