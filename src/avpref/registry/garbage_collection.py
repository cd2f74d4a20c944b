"""Garbage collection of a folder of runs: find the garbage, write a list of it, remove it.

Every run's lock is held from the search to the end, so that nothing is removed while a command works on a run. The list is written
before the first removal, and a file that refers to others is removed before them. A collection starts from the files alone, so the
next one finds whatever remained after a killed one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.config.storage_settings import RetentionSettings
from avpref.datasets import tables
from avpref.domain import SCHEMA_VERSION
from avpref.errors import AvprefError, InputError, StorageError
from avpref.identity import digest
from avpref.registry.adapter_records import PROMOTED, REGISTRY, run_roots
from avpref.registry.garbage import Clock, Garbage, GarbageKind, find_garbage, mentions, temporaries
from avpref.storage.documents import CONFIG_FILE, EVENTS_FILE, RESULT_FILE, RUN_FILE
from avpref.storage.local_files import LocalFiles, commit_once, replace, storage_errors
from avpref.storage.run_folder import RunFolder, list_runs, open_root
from avpref.storage.work_folder import WorkFolder

FOLDER = "gc"
REMOVED = "removed-"
"""Whole runs are renamed to this in the collection's folder and then removed."""
BEGUN, FINISHED = "begun", "finished"
DAY_S, HOUR_S = 86400.0, 3600.0

Reasons = dict[str, str]
"""Run id → why the run is skipped."""


@dataclass(frozen=True)
class Request:
    """Options of a collection. ``runs_too``: remove whole runs too; ``leave_busy``: skip runs that are in use; ``is_dry``: only list."""

    retention: RetentionSettings
    runs_too: bool = False
    leave_busy: bool = False
    is_dry: bool = False


@dataclass(frozen=True)
class Collection:
    """Garbage that a collection removed, or would remove. ``passed_by``: runs that were skipped, with the reason.

    Of those ``unclear`` are not merely in use: one of their records or tables cannot be read. ``tombstone``: the written list.
    """

    entries: tuple[Garbage, ...]
    passed_by: Mapping[str, str]
    unclear: tuple[str, ...]
    tombstone: Path | None

    @property
    def num_bytes(self) -> int:
        """Bytes of all entries; a clip that several runs share is freed when its last link is removed."""
        return sum(entry.num_bytes for entry in self.entries)


def collect(runs: Path, request: Request, now_s: float | None = None) -> Collection:
    """Remove the garbage of the runs in ``runs``; ``now_s`` is the current Unix time.

    A run with unreadable records is skipped. Raises InputError where there is no such folder or the registry cannot be read,
    StorageError where a run is in use (nothing was removed then) or a file cannot be removed (the next collection continues).
    """
    runs = Path(runs).resolve()
    if not runs.is_dir():
        raise InputError(f"no folder {runs}", "a folder of runs", "avpref runs gc --runs DIR")
    clock = _clock(request.retention, time.time() if now_s is None else now_s)
    with _owned(runs, request) as (folders, busy, unclear):
        entries = _marked(runs, folders, request, clock, unclear)
        tombstone = None
        if not request.is_dry:
            tombstone = _write_down(runs, entries, clock.now_s) if entries else None
            _sweep(runs, entries)
            for tombstone_file in unfinished(runs):
                _set_state(tombstone_file, FINISHED)
    return Collection(tuple(entries), busy | unclear, tuple(unclear), tombstone)


def unfinished(runs: Path) -> list[Path]:
    """Lists of collections that were stopped before they had removed everything."""
    tombstones = sorted((Path(runs) / FOLDER).glob("*.json"))
    return [path for path in tombstones if json.loads(path.read_text())["state"] != FINISHED]


def _clock(retention: RetentionSettings, now_s: float) -> Clock:
    return Clock(now_s, retention.grace_hours * HOUR_S, retention.keep_days * DAY_S)


@contextmanager
def _owned(runs: Path, request: Request) -> Iterator[tuple[list[RunFolder], Reasons, Reasons]]:
    """Own every run of the folder for the length of the block; a dry run owns none.

    Gives the owned runs, the skipped ones (in use, or kept in a bucket), and those that cannot be read.
    """
    mine: list[RunFolder] = []
    busy: Reasons = {}
    unclear: Reasons = {}
    with ExitStack() as stack:
        if not request.is_dry:
            with storage_errors(runs / FOLDER):
                (runs / FOLDER).mkdir(exist_ok=True)
            stack.enter_context(WorkFolder(runs / FOLDER).locked())
        for root in run_roots(runs):
            try:
                folder = open_root(root)
                if not isinstance(folder.files, LocalFiles):
                    busy[root.name] = f"it keeps its files in {folder.files.uri('')}, where nothing is collected"
                    continue
                if not request.is_dry:
                    stack.enter_context(folder.locked())
                mine.append(folder)
            except StorageError as error:
                if not request.leave_busy:
                    raise
                busy[root.name] = error.found
            except AvprefError as error:
                unclear[root.name] = error.found
        yield mine, busy, unclear


def _marked(
    runs: Path, folders: Sequence[RunFolder], request: Request, clock: Clock, unclear: Reasons
) -> list[Garbage]:
    """All garbage, in the order of removal. A run whose records cannot be read is added to ``unclear``."""
    registered = mentions(sorted((runs / REGISTRY).rglob("*.json")))
    whole = _whole_runs(runs, folders, registered, request, clock) if request.runs_too else []
    garbage, removed_roots = list(whole), {run.path for run in whole}
    for folder in folders:
        if folder.root not in removed_roots:
            try:
                garbage += find_garbage(folder.root, registered, clock)
            except AvprefError as error:
                unclear[folder.run_id] = error.found
    other_folders = [path for path in sorted(runs.iterdir()) if path.is_dir() and not (path / RUN_FILE).exists()]
    garbage += [entry for path in other_folders for entry in temporaries(path, clock)]
    order = list(GarbageKind)
    return sorted(garbage, key=lambda entry: (order.index(entry.kind), str(entry.path)))


def _whole_runs(
    runs: Path, folders: Sequence[RunFolder], registered: set[str], request: Request, clock: Clock
) -> list[Garbage]:
    """Runs past the retention time that are not among the newest, were never promoted, and on which no other run depends."""
    newest = set(list_runs(runs)[: request.retention.keep_runs])
    may_go = {folder.root: folder for folder in folders if folder.run_id not in newest | registered}
    may_go = {root: folder for root, folder in may_go.items() if not list((root / PROMOTED).glob("*.json"))}
    may_go = {root: folder for root, folder in may_go.items() if all(map(clock.is_expired, _marks(root)))}
    staying = [root for root in run_roots(runs) if root not in may_go]
    while needed := {root for root, folder in may_go.items() if _is_used_by(folder, staying)}:
        staying += sorted(needed)
        may_go = {root: folder for root, folder in may_go.items() if root not in needed}
    reason = f"older than {request.retention.keep_days:g} days, not promoted, and no other run depends on it"
    return [Garbage(root, GarbageKind.RUN, reason, _size(root)) for root in sorted(may_go)]


def _marks(root: Path) -> list[Path]:
    """Files that every command that works on the run changes."""
    return [path for path in (root / RUN_FILE, root / EVENTS_FILE, root / RESULT_FILE) if path.exists()]


def _is_used_by(folder: RunFolder, others: Sequence[Path]) -> bool:
    """Whether the configuration of another run names this one, a file in it, or a norm that it measured."""
    norms = folder.tables.read(tables.NORMS)["norm_id"].to_pylist() if folder.tables.has(tables.NORMS) else []
    paths = [root / CONFIG_FILE for root in others]
    texts = [path.read_text(encoding="utf-8") for path in paths if path.exists()]
    return any(name in text for text in texts for name in (folder.run_id, *set(norms)))


def _size(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())


def _write_down(runs: Path, entries: Sequence[Garbage], now_s: float) -> Path:
    """Write the list of garbage with the reasons; it is on the disk before the first removal."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    rows = [
        {
            "path": entry.path.relative_to(runs).as_posix(),
            "sort": str(entry.kind),
            "reason": entry.reason,
            "num_bytes": entry.num_bytes,
        }
        for entry in entries
    ]
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "time": when, "state": BEGUN, "entries": rows}
    path = runs / FOLDER / f"{when}-{digest('gc', rows, size=8)}.json"
    if not commit_once(path, json.dumps(document, indent=1).encode()):
        _set_state(path, BEGUN)
    return path


def _set_state(tombstone: Path, state: str) -> None:
    document = json.loads(tombstone.read_text()) | {"state": state}
    replace(tombstone, json.dumps(document, indent=1).encode())


def _sweep(runs: Path, entries: Sequence[Garbage]) -> None:
    for half_removed in sorted((runs / FOLDER).glob(f"{REMOVED}*")):
        _remove_tree(half_removed)
    for entry in entries:
        if entry.kind is GarbageKind.RUN:
            renamed = runs / FOLDER / f"{REMOVED}{entry.path.name}"
            with storage_errors(entry.path):
                entry.path.rename(renamed)
            _remove_tree(renamed)
        else:
            remove(entry.path)
    for parent in {entry.path.parent for entry in entries if entry.kind is not GarbageKind.RUN}:
        _remove_empty(parent, runs)


def remove(path: Path) -> None:
    """Remove one file, unless it is gone already. Raises StorageError."""
    with storage_errors(path), suppress(FileNotFoundError):
        path.unlink()


def _remove_empty(folder: Path, runs: Path) -> None:
    """Remove the folder and the folders above it, up to the run's, as long as they are empty."""
    with suppress(OSError):  # not empty, or removed with its run
        while folder.parent not in (runs, folder):
            folder.rmdir()
            folder = folder.parent


def _remove_tree(folder: Path) -> None:
    with storage_errors(folder):
        shutil.rmtree(folder)
