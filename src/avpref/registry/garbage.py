"""Finds garbage in a run: every file that no pointer, record or plan refers to. Removing is :mod:`avpref.registry.garbage_collection`.

Live are the versions that ``CURRENT`` names, the versions that any record names (of adapters, decisions, aliases: in whatever
field), the units of the current plans, and the clips that any of these refer to. The search is conservative: a file whose use is
unclear is kept, and a record that cannot be read stops the collection of its run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets import tables
from avpref.errors import InputError, TableError
from avpref.registry import id_index
from avpref.registry.study_files import FOLDER as STUDIES
from avpref.registry.study_files import STUDY_FILE
from avpref.storage.documents import SUMMARY_FILE
from avpref.storage.local_files import TEMPORARY_PREFIX, LocalFiles
from avpref.storage.score_files import EMBEDDINGS
from avpref.storage.sealed_tables import Manifest, TableStore
from avpref.storage.unit_files import planned

NOT_RECORDS = frozenset({"units", "tables", "clips", "latents", "embeddings", "models", "plots", id_index.FOLDER})
"""Folders of a run that hold no records."""
MEDIA = ("clips", "latents")
CHECKPOINTS = "checkpoints"


class GarbageKind(StrEnum):
    """Kinds of garbage in the order of removal: a file that refers to others is removed before them."""

    UNIT = "superseded unit"
    TABLE = "table version"
    INDEX = "index"
    EMBEDDING = "embedding"
    MEDIA = "orphan media"
    CHECKPOINT = "trainer checkpoint"
    TEMPORARY = "temporary"
    RUN = "whole run"


@dataclass(frozen=True)
class Garbage:
    """A file or folder that may be removed, why, and its size."""

    path: Path
    kind: GarbageKind
    reason: str
    num_bytes: int


@dataclass(frozen=True)
class Clock:
    """The current time (Unix) and the ages from which files may be removed: ``grace_s`` for every file, ``keep_s`` for superseded ones."""

    now_s: float
    grace_s: float
    keep_s: float

    def is_settled(self, path: Path) -> bool:
        """Whether the file is past the grace period."""
        return self._age_s(path) >= self.grace_s

    def is_expired(self, path: Path) -> bool:
        """Whether the file is past grace period and retention time."""
        return self._age_s(path) >= max(self.grace_s, self.keep_s)

    def _age_s(self, path: Path) -> float:
        return self.now_s - path.lstat().st_mtime


def mentions(documents: Iterable[Path]) -> set[str]:
    """Every text in the JSON files ``documents``, and the parts of texts that are paths. Raises InputError for a broken file."""
    names: set[str] = set()
    for path in documents:
        try:
            texts = set(_texts(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            fix = f"restore {path} from a copy, or delete it if nothing needs what it names"
            raise InputError(f"{path}: {error}; what it refers to cannot be known", "a whole document", fix) from error
        names |= texts | {part for text in texts if "/" in text for part in text.split("/")}
    return names


def records_in(root: Path) -> list[Path]:
    """The documents of a run that may name table versions."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in NOT_RECORDS]
    records = [path for folder in (root, *folders) for path in sorted(folder.glob("*.json"))]
    studies = sorted(root.glob(f"{STUDIES}/*/{STUDY_FILE}"))
    return [path for path in (*records, *studies) if _is_whole(path)]


def find_garbage(root: Path, registered: set[str], clock: Clock) -> list[Garbage]:
    """The garbage of the run at ``root``; ``registered`` are the texts in documents of the registry.

    Raises InputError or TableError where a record or a file that refers to others cannot be read.
    """
    named = registered | mentions(records_in(root))
    kept, dropped = _versions(root, named, clock)
    units, superseded = _units(root, kept, clock)
    media = _media(root, kept, units)
    return [
        *superseded,
        *dropped,
        *_indices(root, kept, clock),
        *_embeddings(root, units, clock),
        *_orphans(root, media, clock),
        *_checkpoints(root, clock),
        *temporaries(root, clock),
    ]


def temporaries(folder: Path, clock: Clock) -> list[Garbage]:
    """The temporary files of killed writers."""
    paths = [path for path in _files(folder) if not _is_whole(path) and clock.is_settled(path)]
    return [_garbage(path, GarbageKind.TEMPORARY, "its writer is gone") for path in paths]


def live_versions(root: Path, named: set[str]) -> list[Manifest]:
    """The versions of the run's tables that something refers to."""
    store = TableStore(LocalFiles(root / "tables"))
    versions = []
    for table in _folders(root / "tables"):
        current = store.current(table.name)
        names = {path.stem for path in table.glob("*.json")} & (named | ({current.version} if current else set()))
        versions += [store.version(table.name, name) for name in sorted(names)]
    return versions


def _versions(root: Path, named: set[str], clock: Clock) -> tuple[list[Manifest], list[Garbage]]:
    """Versions that stay (live or young), and the files of all others, manifests first."""
    store = TableStore(LocalFiles(root / "tables"))
    kept = {(live.table, live.version): live for live in live_versions(root, named)}
    dropped: list[Garbage] = []
    for table in _folders(root / "tables"):
        for path in sorted(table.glob("*.json")):
            if (table.name, path.stem) in kept:
                continue
            if clock.is_settled(path):
                dropped.append(_garbage(path, GarbageKind.TABLE, "neither CURRENT nor named by any record"))
            else:
                kept[table.name, path.stem] = store.version(table.name, path.stem)
        files = {file.name for version in kept.values() if version.table == table.name for file in version.files}
        strays = [path for path in sorted(table.glob("*.parquet")) if path.name not in files and clock.is_settled(path)]
        dropped += [_garbage(path, GarbageKind.TABLE, "of no version that stays") for path in strays]
    return list(kept.values()), dropped


def _units(root: Path, kept: Sequence[Manifest], clock: Clock) -> tuple[list[Path], list[Garbage]]:
    """Unit files that stay, and those of superseded fingerprints past the retention time."""
    evaluated = _values(root, kept, tables.EVALUATIONS.name, "candidate_id")
    staying: list[Path] = []
    superseded: list[Garbage] = []
    for stage in _folders(root / "units"):
        plan = planned(stage)
        for folder in _folders(stage):
            files = sorted(folder.glob("*.parquet"))
            if plan is None or folder.name in plan or not all(clock.is_expired(path) for path in files):
                staying += files
                continue
            for path in files:
                if evaluated & _column(path, "candidate_id", where="path"):
                    staying.append(path)
                else:
                    superseded.append(
                        _garbage(path, GarbageKind.UNIT, f"no plan of stage {stage.name} names {folder.name}")
                    )
    return staying, superseded


def _media(root: Path, kept: Sequence[Manifest], units: Sequence[Path]) -> set[str]:
    """Relative paths of clips and latents that a version or a unit refers to."""
    names: set[str] = set()
    for column in ("path", "latents_path"):
        names |= _values(root, kept, tables.CANDIDATES.name, column)
        for path in units:
            names |= _column(path, column, where=column)
    return names


def _orphans(root: Path, media: set[str], clock: Clock) -> Iterator[Garbage]:
    for name in MEDIA:
        for path in _files(root / name):
            if path.relative_to(root).as_posix() not in media and _is_whole(path) and clock.is_settled(path):
                yield _garbage(path, GarbageKind.MEDIA, "no unit and no table version refers to it")


def _embeddings(root: Path, units: Sequence[Path], clock: Clock) -> Iterator[Garbage]:
    """Embeddings without their unit: folders are named by scorer and fingerprint, files by the unit."""
    live = {(path.parent.name, path.stem) for path in units}
    for path in _files(root / EMBEDDINGS):
        owner = path.parent.name.rpartition("-")[2], path.stem
        if owner not in live and _is_whole(path) and clock.is_settled(path):
            yield _garbage(path, GarbageKind.EMBEDDING, "its unit is gone")


def _indices(root: Path, kept: Sequence[Manifest], clock: Clock) -> Iterator[Garbage]:
    live = {Path(file.name).stem for manifest in kept for file in manifest.files}
    for path in _files(root / id_index.FOLDER):
        if path.stem not in live and _is_whole(path) and clock.is_settled(path):
            yield _garbage(path, GarbageKind.INDEX, "its source file is gone")


def _checkpoints(root: Path, clock: Clock) -> Iterator[Garbage]:
    """Checkpoints of finished trainings: training writes its summary last and never resumes after it."""
    for model in _folders(root / "models"):
        if (model / SUMMARY_FILE).exists():
            for folder in sorted(model.rglob(CHECKPOINTS)):
                for path in _files(folder):
                    if clock.is_settled(path):
                        yield _garbage(path, GarbageKind.CHECKPOINT, "the training is finished")


def _values(root: Path, kept: Sequence[Manifest], table: str, column: str) -> set[str]:
    paths = [path for manifest in kept if manifest.table == table for path in _paths(root, manifest)]
    return {value for path in paths for value in _column(path, column, where=column)}


def _paths(root: Path, manifest: Manifest) -> list[Path]:
    return [root / "tables" / manifest.table / file.name for file in manifest.files]


def _column(path: Path, column: str, where: str) -> set[str]:
    """Values of a text column, without empty ones; none without a column ``where``. Raises TableError for an unreadable file."""
    try:
        file = pq.ParquetFile(path)
        if where not in file.schema_arrow.names:
            return set()
        return set(file.read(columns=[column])[column].to_pylist()) - {""}
    except (OSError, pa.ArrowException) as error:
        fix = f"delete {path} and run: avpref runs resume RUN"
        raise TableError(f"{path}: {error}; what it refers to cannot be known", "a whole file", fix) from error


def _texts(document: Any) -> Iterator[str]:
    match document:
        case str():
            yield document
        case dict():
            for key, value in document.items():
                yield key
                yield from _texts(value)
        case list():
            for value in document:
                yield from _texts(value)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below ``folder``; links to folders are not followed."""
    for parent, names, files in os.walk(folder):
        names.sort()
        for name in sorted(files):
            yield Path(parent) / name


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _is_whole(path: Path) -> bool:
    return not path.name.startswith(TEMPORARY_PREFIX)


def _garbage(path: Path, kind: GarbageKind, reason: str) -> Garbage:
    return Garbage(path, kind, reason, path.lstat().st_size)
