"""A folder that stages work for: committed units, sealed tables, small documents, events, one owner at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

from avpref import __version__
from avpref.datasets import tables, views
from avpref.datasets.rows import QuarantineRow
from avpref.datasets.tables import Table
from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, TableError
from avpref.execution.pool import Unit
from avpref.identity import digest
from avpref.storage.event_log import EventLog
from avpref.storage.files import Files, LocalFiles
from avpref.storage.local_files import Manifest, TableStore, sweep_temporaries
from avpref.storage.lock import owned
from avpref.storage.sibling_runs import Neighbour
from avpref.storage.unit_files import UnitFiles

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class WorkFolder:
    """A folder and what is in it; :class:`avpref.storage.run_folder.RunFolder` is one of a run."""

    root: Path

    @cached_property
    def events(self) -> EventLog:
        """The structured log; one per folder object, since it remembers where the file ends."""
        return EventLog(self.root / EVENTS_FILE, self.root.name)

    @property
    def files(self) -> Files:
        """What is true of the work: units, media, tables, documents. The folder itself, unless it is kept elsewhere."""
        return LocalFiles(self.root)

    @property
    def unit_files(self) -> Files:
        """Where units are committed."""
        return self.files.within("units")

    @property
    def media(self) -> Files:
        """Where the paths of candidates' clips start."""
        return self.files

    @property
    def shared(self) -> Files:
        """What this and other folders beside it have in common."""
        return LocalFiles(self.root.parent)

    def neighbours(self) -> Sequence[Neighbour]:
        """The folders beside this one, where finished work may be found."""
        beside = (name for name in self.shared.folders() if name != self.root.name)
        return [Neighbour(name, self.shared.within(name)) for name in beside]

    @property
    def tables(self) -> TableStore:
        """Sealed tables."""
        return TableStore(self.files.within("tables"))

    def units(self, table: Table) -> UnitFiles:
        """Committed units whose rows belong to ``table``."""
        return UnitFiles(self.unit_files, table)

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
        files = self.tables.files
        for name in self.tables.names(self.require(table)):
            with self._stream(table, name) as stream:
                yield from tables.batches(stream, files.at(name), table)

    def read(self, table: Table) -> pa.Table:
        """The current version of ``table``, compared with its hashes. Raises as :meth:`require`."""
        return self.read_version(table, self.require(table))

    def require(self, table: Table) -> Manifest:
        """The manifest of the current version of ``table``, whose files were compared with their hashes.

        Raises InputError where the stage that makes it has not run, TableError where a file is missing or was changed.
        """
        manifest = self.tables.current(table.name)
        if manifest is None:
            fix = f"avpref runs resume {self.root.name} --runs {self.root.parent}"
            raise InputError(f"{self.root.name} has no table {table.name} yet", "a finished stage", fix)
        self._verify(manifest)
        return manifest

    def _verify(self, manifest: Manifest) -> None:
        """Compare a version's files with their hashes: once in a process, and again for files that have changed since."""
        looks = tuple(_look(self.tables.files, name) for name in self.tables.names(manifest))
        _verified(self.tables, manifest, looks)

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
        """DuckDB with one view per sealed table in the folder, over the manifests' files. Raises TableError as :meth:`read`."""
        found = [(table, manifest) for table in tables.TABLES if (manifest := self.tables.current(table.name))]
        for _, manifest in found:
            self._verify(manifest)
        match self.tables.files:
            case LocalFiles() as local:
                names = {table.name: self.tables.names(manifest) for table, manifest in found}
                return views.connect({table: [local.path(name) for name in each] for table, each in names.items()})
            case _:
                return views.connect_tables(
                    {table.name: self.read_version(table, manifest) for table, manifest in found}
                )

    def read_version(self, table: Table, manifest: Manifest) -> pa.Table:
        """One version of ``table``. Raises TableError where a file is gone or is not of the table."""
        files, parts = self.tables.files, []
        for name in self.tables.names(manifest):
            with self._stream(table, name) as stream:
                parts.append(tables.read_stream(stream, files.at(name), table))
        return tables.joined(parts, table)

    @contextlib.contextmanager
    def _stream(self, table: Table, name: str) -> Iterator[BinaryIO]:
        files = self.tables.files
        try:
            with files.open(name) as stream:
                yield stream
        except FileNotFoundError as error:
            raise TableError(f"no file {files.at(name)}", f"a file of table '{table.name}'", tables.AGAIN) from error

    def write_json(self, name: str, document: Any) -> None:
        """Replace a small JSON document."""
        self.files.replace(name, json.dumps(document, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """A JSON document, or None."""
        try:
            return json.loads(self.files.read(name))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of the block; see :func:`avpref.storage.lock.owned`."""
        with owned(self.root, wait):
            self.record_settings()
            sweep_temporaries(self.root)
            yield

    def record_settings(self) -> None:
        """Make the folder say what this execution was asked for; called by its owner."""


def _look(files: Files, name: str) -> tuple[int, ...]:
    """Inode, bytes, and nanoseconds of the last change of a file; nothing where there is none, or where they are not known."""
    match files:
        case LocalFiles() as local if local.path(name).is_file():
            found = local.path(name).stat()
            return found.st_ino, found.st_size, found.st_mtime_ns
        case _:
            return ()


@lru_cache(maxsize=256)
def _verified(store: TableStore, manifest: Manifest, looks: tuple[tuple[int, ...], ...]) -> None:
    """What passed is remembered for as long as the files look the same."""
    store.verify(manifest)
