"""A folder that stages work for: committed units, sealed tables, small documents, events, one owner at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from avpref.errors import InputError, StorageError
from avpref.events import EventLog
from avpref.flows.units import UnitFiles
from avpref.identity import digest
from avpref.store import Manifest, TableStore, replace, storage_errors, sweep_temporaries

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class WorkFolder:
    """A folder and what is in it; :class:`avpref.flows.run_folder.RunFolder` is one of a run."""

    root: Path

    @property
    def events(self) -> EventLog:
        """The structured log."""
        return EventLog(self.root / EVENTS_FILE, self.root.name)

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

    def batches(self, table: Table) -> Iterator[pa.Table]:
        """The current version of ``table`` in pieces of some ten thousand rows. Raises as :meth:`read`."""
        yield from tables.batches(self.tables.paths(self.require(table)), table)

    def read(self, table: Table) -> pa.Table:
        """The current version of ``table``. Raises InputError where the stage that makes it has not run."""
        return tables.read_all(self.tables.paths(self.require(table)), table)

    def require(self, table: Table) -> Manifest:
        """The manifest of the current version of ``table``. Raises InputError where the stage that makes it has not run."""
        manifest = self.tables.current(table.name)
        if manifest is None:
            fix = f"avpref runs resume {self.root.name} --runs {self.root.parent}"
            raise InputError(f"{self.root.name} has no table {table.name} yet", "a finished stage", fix)
        return manifest

    def has(self, table: Table) -> bool:
        """Whether ``table`` has a sealed version."""
        return self.tables.current(table.name) is not None

    def seal_units(self, table: Table, units: Sequence[Unit]) -> list[QuarantineRow]:
        """Compact finished units into one sealed version of ``table``; returns what they quarantined."""
        fingerprint = digest("units", [[unit.fingerprint, unit.name] for unit in units])
        files = self.units(table)
        if self.is_sealed(table, fingerprint):
            return files.quarantined(units)
        quarantined: list[QuarantineRow] = []

        def parts() -> Iterator[pa.Table]:
            for rows, lost in files.each(units):
                quarantined.extend(lost)
                yield tables.conform(table, rows, fingerprint)

        schema = tables.to_arrow(table, [], fingerprint).schema
        self.tables.seal(table.name, fingerprint, [tables.bytes_of(schema, parts())])
        return quarantined

    def num_rows(self, table: Table) -> int:
        """Rows of the current version of ``table``, from its manifest; 0 where there is none."""
        manifest = self.tables.current(table.name)
        return 0 if manifest is None else manifest.rows

    def connect(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with one view per sealed table in the folder, over the manifests' files."""
        manifests = [self.tables.current(table.name) for table in tables.TABLES]
        return views.connect({found.table: self.tables.paths(found) for found in manifests if found is not None})

    def write_json(self, name: str, document: Any) -> None:
        """Replace a small JSON document."""
        replace(self.root / name, json.dumps(document, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """A JSON document, or None."""
        path = self.root / name
        return json.loads(path.read_text()) if path.exists() else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder for the length of the block. Raises StorageError naming the other owner."""
        path = self.root / "lock"
        with storage_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode() or "another command"
            os.close(handle)
            raise StorageError(
                f"{self.root.name} is in use by {owner}", "one command at a time", "wait for it, or stop it"
            ) from None
        try:
            with storage_errors(path):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            sweep_temporaries(self.root)
            self.record_settings()
            yield
        finally:
            os.close(handle)

    def record_settings(self) -> None:
        """Make the folder say what this execution was asked for; called by its owner."""
