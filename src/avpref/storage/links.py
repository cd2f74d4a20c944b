"""A committed file under a second name: a hard link, or a copy where the two names are on different file systems."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from avpref.storage.local_files import commit_once, fsync, storage_errors

NO_LINK_HERE = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP})
"""Errors of the operating system where a hard link cannot be made but a copy can."""


def link_all(files: Iterable[tuple[Path, Path]]) -> None:
    """Link each source (first) to its target (second), whole or not at all; a target that exists stays as it is.

    Each folder is synced once, after all links are made. Raises FileNotFoundError where a source is gone, StorageError where a
    target cannot be written.
    """
    folders = set()
    for source, target in files:
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        _link(source, target)
        folders.add(target.parent)
    for folder in folders:
        with storage_errors(folder):
            fsync(folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in NO_LINK_HERE:
            with storage_errors(target):
                raise
        commit_once(target, source.read_bytes())
