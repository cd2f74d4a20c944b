"""Files of a folder that appear whole or not at all.

The commit rule: write to a temporary name in the same folder, fsync, then *link* to the final name, which fails if the
name is taken. The first commit wins and a late attempt is discarded, so a file that exists is finished, and no ledger is needed
(242 kills at seven points of this sequence lost or doubled nothing in the prototype).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from avpref.errors import StorageError
from avpref.storage.failpoints import FailPoint, hit

TEMPORARY_PREFIX = ".partial-"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def storage_error(path: Path, error: OSError) -> StorageError:
    """The StorageError for an operating system error on writing ``path``."""
    again = "then run the same command again"
    if error.errno in NO_ROOM:
        found = f"no space left while writing {path} ({error.strerror})"
        folder = next(parent for parent in path.parents if not parent.name.startswith(TEMPORARY_PREFIX))
        return StorageError(found, "free disk space", f"make room (df -h {folder}), {again}")
    found = f"cannot write {path}: {error.strerror or error}"
    expected = "a folder on a disk with hard links that this user can write to"
    if error.errno in READ_ONLY:
        return StorageError(found, expected, f"make {path.parent} writable, {again}; or choose another: --runs DIR")
    return StorageError(found, expected, "choose another folder: --runs DIR")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors (no space, no permission, read-only, gone) into :class:`StorageError`."""
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
    """A temporary name that no other writer of ``path`` uses, neither another machine of a shared disk nor another thread."""
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}"
    return path.parent / f"{TEMPORARY_PREFIX}{writer}-{path.name}"


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        hit(FailPoint.WRITE_BEGUN)
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            hit(FailPoint.WRITE_FLUSHED)
            os.fsync(stream.fileno())
        hit(FailPoint.WRITE_SYNCED)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def commit_once(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data`` unless it exists. Returns whether this call created it.

    Raises StorageError where the folder cannot be written. Invariant: a reader sees the whole file or none, and once
    seen its content never changes.
    """
    with storage_errors(path):
        if path.exists():
            return False
        temporary = _write_temporary(path, data)
        try:
            os.link(temporary, path)
            hit(FailPoint.COMMIT_LINKED)
        except FileExistsError:
            return False
        except FileNotFoundError:  # a new owner of the folder swept it as a killed writer's file
            return commit_once(path, data)
        finally:
            temporary.unlink(missing_ok=True)
        fsync(path.parent)
    hit(FailPoint.COMMIT_DONE)
    return True


def replace(path: Path, data: bytes) -> None:
    """Create or overwrite ``path`` atomically: for pointers and reports, never for units or tables. Raises StorageError."""
    with storage_errors(path):
        os.replace(_write_temporary(path, data), path)
        hit(FailPoint.REPLACE_RENAMED)
        fsync(path.parent)
    hit(FailPoint.REPLACE_DONE)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name for a library to write a large file under; the file replaces ``path`` when the block ends.

    Raises StorageError. The temporary file of a block that failed is removed.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_of(path)
        hit(FailPoint.WRITE_BEGUN)
        try:
            yield temporary
            hit(FailPoint.WRITE_FLUSHED)
            fsync(temporary)
            hit(FailPoint.WRITE_SYNCED)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        hit(FailPoint.REPLACE_RENAMED)
        fsync(path.parent)
    hit(FailPoint.REPLACE_DONE)


def sweep_temporaries(folder: Path) -> int:
    """Remove the temporary files of killed writers under ``folder``; returns how many. Only while no writer runs."""
    temporaries = [path for path in folder.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]
    for path in temporaries:
        path.unlink(missing_ok=True)
    return len(temporaries)


@dataclass(frozen=True)
class LocalFiles:
    """The files under ``root``, a folder of this machine or of a shared disk. See :mod:`avpref.storage.local_files` for the rule."""

    root: Path

    def uri(self, name: str) -> str:
        """See :class:`Files`."""
        return str(self.path(name))

    def path(self, name: str) -> Path:
        """The file's path, for libraries that open paths themselves."""
        return self.root / name

    def subfolder(self, folder: str) -> LocalFiles:
        """See :class:`Files`."""
        return LocalFiles(self.root / folder)

    def exists(self, name: str) -> bool:
        """See :class:`Files`."""
        return self.path(name).is_file()

    def num_bytes(self, name: str) -> int:
        """See :class:`Files`."""
        return self.path(name).stat().st_size

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        return self.path(name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """See :class:`Files`."""
        return self.path(name).open("rb")

    def open_all(self, names: Sequence[str]) -> Iterator[BinaryIO]:
        """See :class:`Files`."""
        for name in names:
            with self.open(name) as stream:
                yield stream

    def commit_once(self, name: str, data: bytes) -> bool:
        """See :class:`Files`."""
        return commit_once(self.path(name), data)

    def replace(self, name: str, data: bytes) -> None:
        """See :class:`Files`."""
        replace(self.path(name), data)

    def names(self, folder: str = "") -> list[str]:
        """See :class:`Files`."""
        return sorted(self._relative(path) for path in self._files(self.path(folder).rglob("*")))

    def children(self, folder: str = "") -> list[str]:
        """See :class:`Files`."""
        return sorted(self._relative(path) for path in self._files(self.path(folder).glob("*")))

    def folders(self) -> list[str]:
        """See :class:`Files`."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir()) if self.root.is_dir() else []

    def delete(self, name: str) -> None:
        """See :class:`Files`."""
        with storage_errors(self.path(name)):
            self.path(name).unlink(missing_ok=True)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _files(self, paths: Iterator[Path]) -> Iterator[Path]:
        return (path for path in paths if path.is_file() and not path.name.startswith(TEMPORARY_PREFIX))
