"""Commit of many files at once: one wait for the disk instead of one per file.

The rule of :mod:`avpref.storage.local_files` holds for each of them: temporary name, disk, link to the final name, first commit wins.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles, commit_once, fsync, storage_errors, temporary_of

THREADS = 16
"""Threads that wait for the disk, or send objects."""

NamedBytes = tuple[str, bytes]


def commit_all(store: Files, files: Sequence[NamedBytes]) -> None:
    """Create the files of ``store`` that do not exist yet; when it returns, all of them are durable. Raises StorageError.

    A process that is killed meanwhile leaves some of them whole and the others absent.
    """
    match store:
        case LocalFiles() as local:
            _commit_locally(local, files)
        case _:
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(lambda file: store.commit_once(*file), files))


def _commit_locally(store: LocalFiles, files: Sequence[NamedBytes]) -> None:
    named = {store.path(name): data for name, data in files}
    missing = {path: data for path, data in named.items() if not path.exists()}
    if not missing:
        return
    temporaries: dict[Path, Path] = {}
    with storage_errors(store.root):
        try:
            for path, data in missing.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                temporaries[path] = temporary_of(path)
                hit(FailPoint.WRITE_BEGUN)
                temporaries[path].write_bytes(data)
            hit(FailPoint.WRITE_FLUSHED)
            _sync(store.root, list(temporaries.values()))
            hit(FailPoint.WRITE_SYNCED)
            for path, temporary in temporaries.items():
                _link(temporary, path, missing[path])
        finally:
            for temporary in temporaries.values():
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
        _sync(store.root, sorted({path.parent for path in missing}))
    hit(FailPoint.COMMIT_DONE)


def _link(temporary: Path, path: Path, data: bytes) -> None:
    try:
        os.link(temporary, path)
        hit(FailPoint.COMMIT_LINKED)
    except FileExistsError:
        return
    except FileNotFoundError:  # a new owner of the folder swept it as a killed writer's file
        commit_once(path, data)


def _sync(root: Path, paths: Sequence[Path]) -> None:
    """Wait until ``paths`` on the file system of ``root`` are on the disk: by one call where the system has it, else one by one."""
    if not _sync_file_system(root):
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(fsync, paths))


def _sync_file_system(root: Path) -> bool:
    """Write out the whole file system of ``root`` (Linux); returns whether that was possible."""
    try:
        sync = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        return False
    handle = os.open(root, os.O_RDONLY)
    try:
        return bool(sync(handle) == 0)
    finally:
        os.close(handle)
