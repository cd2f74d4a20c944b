"""Garbage collection of a folder of runs: mark what is live, write down what goes, remove it.

Nothing goes while a command works on a run: every run's lock is held from marking to the end. The list of what goes is
written before anything is removed, things go before what they refer to, and whatever a killed collection leaves is found again by the
next, because marking starts from nothing but the files.
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

from avpref.config.retention_settings import RetentionSettings
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
"""Runs that are passed by, with the reason."""


@dataclass(frozen=True)
class Request:
    """What is asked of a collection. ``runs_too``: whole runs may go; ``leave_busy``: pass by runs that are in use."""

    retention: RetentionSettings
    runs_too: bool = False
    leave_busy: bool = False
    is_dry: bool = False


@dataclass(frozen=True)
class Collection:
    """What a collection removed, or would remove. ``passed_by``: runs that were left alone, with the reason.

    Of those ``unclear`` are not merely in use: it cannot be told what of them is live.
    """

    entries: tuple[Garbage, ...]
    passed_by: Mapping[str, str]
    unclear: tuple[str, ...]
    tombstone: Path | None

    @property
    def num_bytes(self) -> int:
        """Bytes of everything on the list; a clip that runs share is freed when its last link goes."""
        return sum(each.num_bytes for each in self.entries)


def collect(runs: Path, request: Request, now_s: float | None = None) -> Collection:
    """Remove what nothing refers to from the runs in ``runs``; ``now_s`` is the time in seconds since 1970.

    A run of which it cannot be told what is live is passed by. Raises InputError where there is no such folder or the
    registry cannot be read, StorageError where a run is in use (nothing was removed then) or something cannot be
    removed (the next collection goes on).
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
            for left in unfinished(runs):
                _set_state(left, FINISHED)
    return Collection(tuple(entries), busy | unclear, tuple(unclear), tombstone)


def unfinished(runs: Path) -> list[Path]:
    """Lists of collections that were stopped before they had removed everything."""
    found = sorted((Path(runs) / FOLDER).glob("*.json"))
    return [path for path in found if json.loads(path.read_text())["state"] != FINISHED]


def _clock(retention: RetentionSettings, now_s: float) -> Clock:
    return Clock(now_s, retention.grace_hours * HOUR_S, retention.keep_days * DAY_S)


@contextmanager
def _owned(runs: Path, request: Request) -> Iterator[tuple[list[RunFolder], Reasons, Reasons]]:
    """Own every run of the folder for the length of the block; a dry run owns nothing.

    Gives the runs, those that are left alone (in use, or kept in a bucket), and those that cannot be read.
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
    """Everything that may go, in the order in which it goes. A run of which it cannot be told is added to ``unclear``."""
    registered = mentions(sorted((runs / REGISTRY).rglob("*.json")))
    whole = _whole_runs(runs, folders, registered, request, clock) if request.runs_too else []
    found, going = list(whole), {each.path for each in whole}
    for folder in folders:
        if folder.root not in going:
            try:
                found += find_garbage(folder.root, registered, clock)
            except AvprefError as error:
                unclear[folder.run_id] = error.found
    beside = [path for path in sorted(runs.iterdir()) if path.is_dir() and not (path / RUN_FILE).exists()]
    found += [each for path in beside for each in temporaries(path, clock)]
    order = list(GarbageKind)
    return sorted(found, key=lambda each: (order.index(each.sort), str(each.path)))


def _whole_runs(
    runs: Path, folders: Sequence[RunFolder], registered: set[str], request: Request, clock: Clock
) -> list[Garbage]:
    """Runs past the retention time that are not among the newest, that nobody promoted, and that no other run stands on."""
    newest = set(list_runs(runs)[: request.retention.keep_runs])
    may_go = {folder.root: folder for folder in folders if folder.run_id not in newest | registered}
    may_go = {root: folder for root, folder in may_go.items() if not list((root / PROMOTED).glob("*.json"))}
    may_go = {root: folder for root, folder in may_go.items() if all(map(clock.is_expired, _marks(root)))}
    staying = [root for root in run_roots(runs) if root not in may_go]
    while needed := {root for root, folder in may_go.items() if _is_stood_on(folder, staying)}:
        staying += sorted(needed)
        may_go = {root: folder for root, folder in may_go.items() if root not in needed}
    reason = f"older than {request.retention.keep_days:g} days, not promoted, and no other run stands on it"
    return [Garbage(root, GarbageKind.RUN, reason, _size(root)) for root in sorted(may_go)]


def _marks(root: Path) -> list[Path]:
    """Files that change whenever a command works on the run."""
    return [path for path in (root / RUN_FILE, root / EVENTS_FILE, root / RESULT_FILE) if path.exists()]


def _is_stood_on(folder: RunFolder, others: Sequence[Path]) -> bool:
    """Whether the configuration of another run names this one, a file in it, or a norm that it measured."""
    norms = folder.tables.read(tables.NORMS)["norm_id"].to_pylist() if folder.tables.has(tables.NORMS) else []
    paths = [root / CONFIG_FILE for root in others]
    texts = [path.read_text(encoding="utf-8") for path in paths if path.exists()]
    return any(name in text for text in texts for name in (folder.run_id, *set(norms)))


def _size(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())


def _write_down(runs: Path, entries: Sequence[Garbage], now_s: float) -> Path:
    """The list of what goes and why, whole on the disk before anything is removed."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    rows = [
        {
            "path": each.path.relative_to(runs).as_posix(),
            "sort": str(each.sort),
            "reason": each.reason,
            "num_bytes": each.num_bytes,
        }
        for each in entries
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
    for left in sorted((runs / FOLDER).glob(f"{REMOVED}*")):
        _remove_tree(left)
    for each in entries:
        if each.sort is GarbageKind.RUN:
            aside = runs / FOLDER / f"{REMOVED}{each.path.name}"
            with storage_errors(each.path):
                each.path.rename(aside)
            _remove_tree(aside)
        else:
            remove(each.path)
    for parent in {each.path.parent for each in entries if each.sort is not GarbageKind.RUN}:
        _remove_empty(parent, runs)


def remove(path: Path) -> None:
    """Remove one file; one that is gone already is fine. Raises StorageError."""
    with storage_errors(path), suppress(FileNotFoundError):
        path.unlink()


def _remove_empty(folder: Path, runs: Path) -> None:
    """Remove the folder and those above it, up to the run's, as far as they are empty."""
    with suppress(OSError):  # not empty, or gone with its run
        while folder.parent not in (runs, folder):
            folder.rmdir()
            folder = folder.parent


def _remove_tree(folder: Path) -> None:
    with storage_errors(folder):
        shutil.rmtree(folder)
