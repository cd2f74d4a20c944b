"""Files that appear whole or not at all, and sealed table versions.

The commit rule: write to a temporary name in the same folder, fsync, then *link* to the final name, which fails if the
name is taken. The first commit wins and a late attempt is discarded, so what exists is done and needs no ledger
(242 kills at seven points of this sequence lost or doubled nothing in the prototype).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avpref.domain import SCHEMA_VERSION
from avpref.errors import SchemaVersionError, StorageError, TableError
from avpref.identity import bytes_sha256, digest
from avpref.storage.failpoints import Moment, reached

if TYPE_CHECKING:
    from avpref.storage.files import Files

TEMPORARY_PREFIX = ".partial-"
CURRENT = "CURRENT"
"""The pointer of a table's folder: it names the version that counts."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def storage_error(path: Path, error: OSError) -> StorageError:
    """What is told of the system's refusal to write ``path``."""
    again = "then run the same command again"
    if error.errno in NO_ROOM:
        found = f"no space left while writing {path} ({error.strerror})"
        return StorageError(found, "free disk space", f"make room (df -h {path.parent}), {again}")
    found = f"cannot write {path}: {error.strerror or error}"
    expected = "a folder on a disk with hard links that this user can write to"
    if error.errno in READ_ONLY:
        return StorageError(found, expected, f"make {path.parent} writable, {again}; or choose another: --runs DIR")
    return StorageError(found, expected, "choose another folder: --runs DIR")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (no space, no permission, read-only, gone) into :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_of(path: Path) -> Path:
    """A name that no other writer of ``path`` uses: not on another machine of a shared disk, not in another thread."""
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}"
    return path.parent / f"{TEMPORARY_PREFIX}{writer}-{path.name}"


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        reached(Moment.WRITE_BEGUN)
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            reached(Moment.WRITE_FLUSHED)
            os.fsync(stream.fileno())
        reached(Moment.WRITE_SYNCED)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def commit_once(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data`` if it does not exist. Returns whether this call created it.

    Raises StorageError where the folder cannot be written. Invariant: a reader sees the whole file or none, and once
    seen its content never changes.
    """
    with storage_errors(path):
        if path.exists():
            return False
        temporary = _write_temporary(path, data)
        try:
            os.link(temporary, path)
            reached(Moment.COMMIT_LINKED)
        except FileExistsError:
            return False
        except FileNotFoundError:  # a new owner of the folder took it for what a killed writer had left
            return commit_once(path, data)
        finally:
            temporary.unlink(missing_ok=True)
        fsync(path.parent)
    reached(Moment.COMMIT_DONE)
    return True


def replace(path: Path, data: bytes) -> None:
    """Write ``path`` atomically over whatever stood there: for pointers and reports, never for units or tables."""
    with storage_errors(path):
        os.replace(_write_temporary(path, data), path)
        reached(Moment.REPLACE_RENAMED)
        fsync(path.parent)
    reached(Moment.REPLACE_DONE)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name for a library to write a large file under; it takes the place of ``path`` when the block ends.

    Raises StorageError. What a block that failed has written is removed.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_of(path)
        reached(Moment.WRITE_BEGUN)
        try:
            yield temporary
            reached(Moment.WRITE_FLUSHED)
            fsync(temporary)
            reached(Moment.WRITE_SYNCED)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        reached(Moment.REPLACE_RENAMED)
        fsync(path.parent)
    reached(Moment.REPLACE_DONE)


def sweep_temporaries(folder: Path) -> int:
    """Remove what killed writers left behind under ``folder``; returns how many files. Only while no writer is alive."""
    left = [path for path in folder.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


@dataclass(frozen=True)
class SealedFile:
    """One file of a sealed table: name relative to the table's folder, rows, and hash."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A sealed version of a table: an explicit list of files. Readers never glob."""

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
    """The version that a table with these inputs and files has: a hash of them all."""
    return digest("table", table, fingerprint, [file.rows for file in files], [file.sha256 for file in files])


@dataclass(frozen=True)
class TableStore:
    """Sealed table versions under ``<table>/``, with a ``CURRENT`` pointer that is swapped in one step."""

    files: Files

    def seal(self, table: str, fingerprint: str, parts: list[tuple[bytes, int]]) -> Manifest:
        """Commit ``parts`` (file bytes, row count) as one version of ``table`` and point ``CURRENT`` at it."""
        unnamed = [SealedFile("", rows, bytes_sha256(data)) for data, rows in parts]
        version = version_of(table, fingerprint, unnamed)
        sealed = [dataclasses.replace(each, name=f"{version}-{n:04d}.parquet") for n, each in enumerate(unnamed)]
        for file, (data, _) in zip(sealed, parts, strict=True):
            self.files.commit_once(f"{table}/{file.name}", data)
        reached(Moment.SEAL_FILED)
        manifest = Manifest(table, version, fingerprint, tuple(sealed))
        self.files.commit_once(f"{table}/{version}.json", json.dumps(asdict(manifest), indent=1).encode())
        reached(Moment.SEAL_LISTED)
        self.files.replace(f"{table}/{CURRENT}", version.encode())
        reached(Moment.SEAL_POINTED)
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
            found = f"{self.files.at(name)}: {error}"
            raise TableError(found, "a manifest written by this product", self._fix(name)) from error
        if manifest.schema_version != SCHEMA_VERSION:
            found = f"{self.files.at(name)} has schema version {manifest.schema_version}"
            raise SchemaVersionError(found, f"schema version {SCHEMA_VERSION}", "use a new folder: --runs DIR")
        listed = version_of(manifest.table, manifest.fingerprint, manifest.files)
        if {listed, manifest.version} != {version}:
            found = f"{self.files.at(name)} lists files of version {listed}"
            raise TableError(found, f"files of version {version}", self._fix(name))
        return manifest

    def names(self, manifest: Manifest) -> list[str]:
        """Names of the manifest's files, relative to the place of the tables."""
        return [f"{manifest.table}/{file.name}" for file in manifest.files]

    def verify(self, manifest: Manifest) -> None:
        """Compare every file with its hash. Raises TableError naming the first that is missing or was changed."""
        for file, name in zip(manifest.files, self.names(manifest), strict=True):
            found = self._sha256(name)
            if found != file.sha256:
                found = found if found == "no file" else f"sha-256 {found}"
                raise TableError(f"{self.files.at(name)}: {found}", f"sha-256 {file.sha256}", self._fix(name))

    def _fix(self, name: str) -> str:
        table, _, file = name.rpartition("/")
        folder = self.files.at(table)
        return f"restore {file} from a copy, or delete the folder {folder} and run: avpref runs resume RUN"

    def _sha256(self, name: str) -> str:
        try:
            return bytes_sha256(self.files.read(name))
        except FileNotFoundError:
            return "no file"
