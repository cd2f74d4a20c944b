"""Hashes of large files without reading them again: remembered beside the files, and recorded when a file was fetched."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from avpref.errors import StorageError
from avpref.identity import file_sha256
from avpref.storage.local_files import replace

LEDGER = ".avpref-hashes.json"
RECORDS = "weights.json"
SETTLED_NS = 2_000_000_000
"""The hash of a file that changed more recently is not remembered: it may change again within the resolution of its time."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex characters.

    The hash is remembered in ``.avpref-hashes.json`` of the same folder for as long as size and time of change stay the same; where
    that folder is not writable, in the memory of the process. Raises FileNotFoundError.
    """
    status = path.stat()
    if time.time_ns() - status.st_mtime_ns < SETTLED_NS:
        return file_sha256(path)
    return _remembered(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _remembered(path: Path, num_bytes: int, mtime_ns: int) -> str:
    ledger = path.parent / LEDGER
    status = {"num_bytes": num_bytes, "mtime_ns": mtime_ns}
    entry = _read(ledger).get(path.name, {})
    if {name: entry.get(name) for name in status} == status and entry.get("sha256"):
        return str(entry["sha256"])
    sha256 = file_sha256(path)
    entries = {**_read(ledger), path.name: {**status, "sha256": sha256}}
    with contextlib.suppress(StorageError):  # a folder of another user: the hash is not remembered
        replace(ledger, json.dumps(entries, indent=1).encode())
    return sha256


def _read(ledger: Path) -> dict[str, dict[str, object]]:
    """Entries by file; none where the ledger is absent or broken, since files can be hashed again."""
    try:
        document = json.loads(ledger.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = document if isinstance(document, dict) else {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


@dataclass(frozen=True)
class FetchedFile:
    """A fetched file: its size, its SHA-256 (64 hex characters), and the URL or repository that it came from."""

    num_bytes: int
    sha256: str
    source: str


def record_fetched(folder: Path, name: str, fetched: FetchedFile) -> None:
    """Record in ``weights.json`` of ``folder`` that ``name`` (relative to ``folder``) was fetched. Raises StorageError."""
    entries = {**{known: vars(entry) for known, entry in _fetched(folder).items()}, name: vars(fetched)}
    replace(folder / RECORDS, json.dumps(entries, indent=1).encode())


def fetched_as(folder: Path, path: Path) -> FetchedFile | None:
    """The record of ``path``, fetched into ``folder``; None where it lies elsewhere or has no record."""
    return _fetched(folder).get(path.relative_to(folder).as_posix()) if path.is_relative_to(folder) else None


def _fetched(folder: Path) -> dict[str, FetchedFile]:
    fetched = {}
    for name, entry in _read(folder / RECORDS).items():
        match entry:
            case {"num_bytes": int(num_bytes), "sha256": str(sha256), "source": str(source)}:
                fetched[name] = FetchedFile(num_bytes, sha256, source)
    return fetched
