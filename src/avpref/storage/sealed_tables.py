"""Sealed table versions: an explicit list of files with their hashes, and a pointer to the current version."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from avpref.domain import SCHEMA_VERSION
from avpref.errors import SchemaVersionError, TableError
from avpref.identity import bytes_sha256, digest
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.files import Files

CURRENT = "CURRENT"
"""The pointer in a table's folder: it names the current version."""


@dataclass(frozen=True)
class SealedFile:
    """A file of a sealed table: name relative to the table's folder, number of rows, SHA-256."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A sealed version of a table: an explicit list of files, so that readers never list folders."""

    table: str
    version: str
    fingerprint: str
    files: tuple[SealedFile, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def rows(self) -> int:
        """Rows over all files."""
        return sum(file.rows for file in self.files)


def version_of(table: str, fingerprint: str, files: Sequence[SealedFile]) -> str:
    """The name of a table's version: a hash of the table, its fingerprint and its files."""
    return digest("table", table, fingerprint, [file.rows for file in files], [file.sha256 for file in files])


@dataclass(frozen=True)
class TableStore:
    """Sealed table versions under ``<table>/``, with a ``CURRENT`` pointer that is swapped in one step."""

    files: Files

    def seal(self, table: str, fingerprint: str, parts: list[tuple[bytes, int]]) -> Manifest:
        """Commit ``parts`` (file bytes, row count) as one version of ``table`` and point ``CURRENT`` at it."""
        unnamed = [SealedFile("", rows, bytes_sha256(data)) for data, rows in parts]
        version = version_of(table, fingerprint, unnamed)
        sealed = [dataclasses.replace(file, name=f"{version}-{n:04d}.parquet") for n, file in enumerate(unnamed)]
        for file, (data, _) in zip(sealed, parts, strict=True):
            self.files.commit_once(f"{table}/{file.name}", data)
        hit(FailPoint.SEAL_FILED)
        manifest = Manifest(table, version, fingerprint, tuple(sealed))
        self.files.commit_once(f"{table}/{version}.json", json.dumps(asdict(manifest), indent=1).encode())
        hit(FailPoint.SEAL_LISTED)
        self.files.replace(f"{table}/{CURRENT}", version.encode())
        hit(FailPoint.SEAL_POINTED)
        return manifest

    def current(self, table: str) -> Manifest | None:
        """The manifest that ``CURRENT`` names, or None where the table was never sealed.

        Raises SchemaVersionError for a version written by another schema, TableError for a broken manifest.
        """
        try:
            version = self.files.read(f"{table}/{CURRENT}").decode().strip()
        except FileNotFoundError:
            return None
        return self.version(table, version)

    def version(self, table: str, version: str) -> Manifest:
        """The manifest of one version. Raises TableError if it is absent, unreadable, or not what its name says."""
        name = f"{table}/{version}.json"
        try:
            raw = json.loads(self.files.read(name))
            files = tuple(SealedFile(**file) for file in raw["files"])
            manifest = Manifest(raw["table"], raw["version"], raw["fingerprint"], files, raw["schema_version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            found = f"{self.files.uri(name)}: {error}"
            raise TableError(found, "a manifest written by this product", self._fix(name)) from error
        if manifest.schema_version != SCHEMA_VERSION:
            found = f"{self.files.uri(name)} has schema version {manifest.schema_version}"
            raise SchemaVersionError(found, f"schema version {SCHEMA_VERSION}", "use a new folder: --runs DIR")
        listed = version_of(manifest.table, manifest.fingerprint, manifest.files)
        if {listed, manifest.version} != {version}:
            found = f"{self.files.uri(name)} lists files of version {listed}"
            raise TableError(found, f"files of version {version}", self._fix(name))
        return manifest

    def names(self, manifest: Manifest) -> list[str]:
        """Names of the manifest's files in the store."""
        return [f"{manifest.table}/{file.name}" for file in manifest.files]

    def verify(self, manifest: Manifest) -> None:
        """Compare every file with its hash. Raises TableError that names the first missing or changed file."""
        for file, name in zip(manifest.files, self.names(manifest), strict=True):
            sha256 = self._sha256(name)
            if sha256 != file.sha256:
                found = "no file" if sha256 is None else f"sha-256 {sha256}"
                raise TableError(f"{self.files.uri(name)}: {found}", f"sha-256 {file.sha256}", self._fix(name))

    def _fix(self, name: str) -> str:
        table, _, file = name.rpartition("/")
        folder = self.files.uri(table)
        return f"restore {file} from a copy, or delete the folder {folder} and run: avpref runs resume RUN"

    def _sha256(self, name: str) -> str | None:
        try:
            return bytes_sha256(self.files.read(name))
        except FileNotFoundError:
            return None
