"""What is known of large files without reading them: hashes remembered beside them, and what came when they were fetched."""

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
"""A file that changed this recently may change again without its time showing it, so its hash is not remembered."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex characters.

    It is remembered in ``.avpref-hashes.json`` of the same folder for as long as size and time of change stay the same; where
    that folder cannot be written to, for the length of the process. Raises FileNotFoundError.
    """
    status = path.stat()
    if time.time_ns() - status.st_mtime_ns < SETTLED_NS:
        return file_sha256(path)
    return _remembered(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _remembered(path: Path, num_bytes: int, mtime_ns: int) -> str:
    ledger = path.parent / LEDGER
    seen = {"num_bytes": num_bytes, "mtime_ns": mtime_ns}
    entry = _read(ledger).get(path.name, {})
    if {name: entry.get(name) for name in seen} == seen and entry.get("sha256"):
        return str(entry["sha256"])
    sha256 = file_sha256(path)
    entries = {**_read(ledger), path.name: {**seen, "sha256": sha256}}
    with contextlib.suppress(StorageError):  # a folder that others own: nothing is remembered there
        replace(ledger, json.dumps(entries, indent=1).encode())
    return sha256


def _read(ledger: Path) -> dict[str, dict[str, object]]:
    """Entries by file; nothing where the ledger is absent or broken, for files can always be read again."""
    try:
        found = json.loads(ledger.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)} if isinstance(found, dict) else {}


@dataclass(frozen=True)
class FetchedFile:
    """What came when a file was fetched."""

    num_bytes: int
    sha256: str
    source: str


def record_fetched(folder: Path, place: str, fetched: FetchedFile) -> None:
    """Write into ``weights.json`` of ``folder`` what came at ``place`` (relative). Raises StorageError."""
    entries = {**{name: vars(entry) for name, entry in _fetched(folder).items()}, place: vars(fetched)}
    replace(folder / RECORDS, json.dumps(entries, indent=1).encode())


def fetched_as(folder: Path, path: Path) -> FetchedFile | None:
    """What came when ``path`` was fetched into ``folder``; None where it is not inside or nobody wrote it down."""
    return _fetched(folder).get(path.relative_to(folder).as_posix()) if path.is_relative_to(folder) else None


def _fetched(folder: Path) -> dict[str, FetchedFile]:
    found = {}
    for place, entry in _read(folder / RECORDS).items():
        match entry:
            case {"num_bytes": int(num_bytes), "sha256": str(sha256), "source": str(source)}:
                found[place] = FetchedFile(num_bytes, sha256, source)
    return found
