"""A folder that appears whole or not at all: it is filled under a temporary name and renamed at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avpref.errors import InputError
from avpref.storage.local_files import fsync, storage_errors, temporary_of


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out``, which becomes ``out`` when the block ends and is removed when it fails.

    Raises InputError where ``out`` exists and is not an empty folder, StorageError where it cannot be written.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already", "a new or empty folder", "choose another folder, or remove this one")
    staging = temporary_of(out)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
    try:
        with storage_errors(out):
            yield staging
            for path in staging.rglob("*"):
                fsync(path)
            if out.is_dir():
                out.rmdir()
            os.rename(staging, out)
            fsync(out.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
