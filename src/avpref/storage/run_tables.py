"""The sealed tables of one folder, as Arrow and DuckDB. Files are compared with their hashes before they are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from avpref.datasets import tables, views
from avpref.datasets.block_table import BlockTable
from avpref.datasets.large_tables import to_files
from avpref.datasets.rows import QuarantineRow
from avpref.datasets.tables import Table
from avpref.errors import InputError, TableError
from avpref.identity import digest
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles
from avpref.storage.sealed_tables import Manifest, TableStore
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


@dataclass(frozen=True)
class RunTables:
    """The sealed tables of the run (or of the list of clips) whose folder is ``root``."""

    store: TableStore
    root: Path

    def current(self, name: str) -> Manifest | None:
        """The manifest of the current version of the table ``name``; None where it was never sealed."""
        return self.store.current(name)

    def has(self, table: Table) -> bool:
        """Whether ``table`` has a sealed version."""
        return self.current(table.name) is not None

    def num_rows(self, table: Table) -> int:
        """Rows of the current version of ``table``, from its manifest; 0 where there is none."""
        manifest = self.current(table.name)
        return 0 if manifest is None else manifest.rows

    def is_sealed(self, table: Table, fingerprint: str) -> bool:
        """Whether the current version of ``table`` was made from exactly these inputs."""
        manifest = self.current(table.name)
        return manifest is not None and manifest.fingerprint == fingerprint

    def seal(self, table: Table, fingerprint: str, rows: pa.Table | BlockTable) -> Manifest:
        """Write ``rows`` as the current version of ``table``."""
        return self.store.seal(table.name, fingerprint, to_files(rows))

    def seal_units(self, files: UnitFiles, units: Sequence[Unit]) -> list[QuarantineRow]:
        """Seal the rows of finished ``units`` as the current version of their table; returns the rows that the units quarantined."""
        table = files.table
        fingerprint = digest("units", [[unit.fingerprint, unit.name] for unit in units])
        if self.is_sealed(table, fingerprint):
            return files.quarantined(units)
        quarantined: list[QuarantineRow] = []

        def parts() -> Iterator[pa.Table]:
            for rows, quarantined_rows in files.read_each(units):
                quarantined.extend(quarantined_rows)
                yield tables.conform(table, rows, fingerprint)

        schema = tables.to_arrow(table, [], fingerprint).schema
        self.store.seal(table.name, fingerprint, [tables.bytes_of(schema, parts())])
        return quarantined

    def require(self, table: Table) -> Manifest:
        """The manifest of the current version of ``table``, whose files were compared with their hashes.

        Raises InputError where the stage that makes it has not run, TableError where a file is missing or was changed.
        """
        manifest = self.current(table.name)
        if manifest is None:
            fix = f"avpref runs resume {self.root.name} --runs {self.root.parent}"
            raise InputError(f"{self.root.name} has no table {table.name} yet", "a finished stage", fix)
        self._verify(manifest)
        return manifest

    def read(self, table: Table) -> pa.Table:
        """The current version of ``table``, compared with its hashes. Raises as :meth:`require`."""
        return self.read_version(table, self.require(table))

    def read_version(self, table: Table, manifest: Manifest) -> pa.Table:
        """One version of ``table``. Raises TableError where a file is gone or has another schema."""
        files, parts = self.store.files, []
        for name in self.store.names(manifest):
            with self._stream(table, name) as stream:
                parts.append(tables.read_stream(stream, files.uri(name), table))
        return tables.joined(parts, table)

    def batches(self, table: Table) -> Iterator[pa.Table]:
        """The current version of ``table`` in pieces of some ten thousand rows. Raises as :meth:`require`."""
        files = self.store.files
        for name in self.store.names(self.require(table)):
            with self._stream(table, name) as stream:
                yield from tables.batches(stream, files.uri(name), table)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with one view per sealed table, over the manifests' files. Raises TableError as :meth:`require`."""
        sealed = [(table, manifest) for table in tables.TABLES if (manifest := self.current(table.name))]
        for _, manifest in sealed:
            self._verify(manifest)
        match self.store.files:
            case LocalFiles() as local:
                return views.connect(
                    {
                        table.name: [local.path(name) for name in self.store.names(manifest)]
                        for table, manifest in sealed
                    }
                )
            case _:
                return views.connect_tables(
                    {table.name: self.read_version(table, manifest) for table, manifest in sealed}
                )

    def _verify(self, manifest: Manifest) -> None:
        """Compare a version's files with their hashes: once in a process, and again for files that have changed since."""
        file_states = tuple(_file_state(self.store.files, name) for name in self.store.names(manifest))
        _verified(self.store, manifest, file_states)

    @contextlib.contextmanager
    def _stream(self, table: Table, name: str) -> Iterator[BinaryIO]:
        files = self.store.files
        try:
            with files.open(name) as stream:
                yield stream
        except FileNotFoundError as error:
            raise TableError(f"no file {files.uri(name)}", f"a file of table '{table.name}'", tables.AGAIN) from error


def _file_state(files: Files, name: str) -> tuple[int, ...]:
    """Inode, size in bytes, and time of change in nanoseconds of a file; empty where there is none, or where the store has none."""
    match files:
        case LocalFiles() as local if local.path(name).is_file():
            status = local.path(name).stat()
            return status.st_ino, status.st_size, status.st_mtime_ns
        case _:
            return ()


@lru_cache(maxsize=256)
def _verified(store: TableStore, manifest: Manifest, file_states: tuple[tuple[int, ...], ...]) -> None:
    """Compare files with their hashes, once per state of the files. Raises TableError."""
    store.verify(manifest)
