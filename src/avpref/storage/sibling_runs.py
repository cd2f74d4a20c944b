"""Finds finished work: the unit files of a stage in a run and in its sibling runs, and the items that these files hold.

A unit's name says the stage and everything that it depends on (the stage fingerprint, product version included), so the same
fingerprint and the same item id mean the same work. Files are committed whole, so a sibling may be read while a command writes
to it; its unfinished work is not seen. A file that cannot be read is skipped, and its work is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.storage.files import Files
from avpref.storage.links import link_all
from avpref.storage.local_files import LocalFiles

UNITS = "units"
SUFFIX = ".parquet"
UNREADABLE = (OSError, pa.ArrowException)


@dataclass(frozen=True)
class SiblingRun:
    """A run in the same folder of runs, with its files. The empty name stands for the run itself."""

    name: str
    files: Files


@dataclass(frozen=True)
class UnitFile:
    """A committed unit: the run that owns it, and the file's name in that run's files."""

    owner: SiblingRun
    name: str

    @property
    def fingerprint(self) -> str:
        """The stage fingerprint that it was made under."""
        return PurePosixPath(self.name).parent.name

    @property
    def unit_name(self) -> str:
        """The unit's derived name."""
        return PurePosixPath(self.name).stem

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The unit's rows without metadata, of ``columns`` or of all; None where the file is gone or cannot be read."""
        try:
            with self.owner.files.open(self.name) as stream:
                rows = pq.ParquetFile(stream).read(columns=columns, use_threads=False)
        except UNREADABLE:
            return None
        return rows.replace_schema_metadata(None)


def siblings(runs: Files, name: str) -> list[SiblingRun]:
    """The folders in ``runs`` other than ``name``, in the order of their names."""
    return [SiblingRun(folder, runs.subfolder(folder)) for folder in runs.folders() if folder != name]


def itself_and_siblings(files: Files, siblings_of: Callable[[], Sequence[SiblingRun]]) -> list[SiblingRun]:
    """The run whose files are ``files``, with the empty name, then its siblings."""
    return [SiblingRun("", files), *siblings_of()]


def unit_files(owners: Iterable[SiblingRun], stage: str, fingerprint: str) -> Iterator[UnitFile]:
    """Unit files of one stage and fingerprint, owner by owner; each owner's folder is listed once."""
    for owner in owners:
        for name in owner.files.children(f"{UNITS}/{stage}/{fingerprint}"):
            if name.endswith(SUFFIX):
                yield UnitFile(owner, name)


def units_by_fingerprint(owners: Iterable[SiblingRun], stage: str) -> Iterator[list[UnitFile]]:
    """Unit files of one stage under any fingerprint: one list for each owner and fingerprint."""
    for owner in owners:
        names = [name for name in owner.files.names(f"{UNITS}/{stage}") if name.endswith(SUFFIX)]
        for _, group in groupby(names, lambda name: PurePosixPath(name).parent):
            yield [UnitFile(owner, name) for name in group]


def find(
    files: Iterable[UnitFile], key: str, wanted: Mapping[str, Sequence[str]], done: Iterable[str] = ()
) -> dict[str, UnitFile]:
    """The file that holds each item of ``wanted``, for the items that some file holds; the first file with an item counts.

    ``wanted`` has the item ids of each missing unit by the unit's name: a file of that name covers exactly these and is not
    opened. Of other files the column ``key`` is read, once for each name: equal names cover equal items. Names in ``done``
    are skipped.
    """
    missing = {item for items in wanted.values() for item in items}
    holders: dict[str, UnitFile] = {}
    read_names = set(done)
    for file in files:
        if not missing:
            break
        if file.unit_name in read_names:
            continue
        items = wanted.get(file.unit_name)
        if items is None:
            rows = file.rows([key])
            items = [] if rows is None else rows[key].unique().to_pylist()
        read_names |= {file.unit_name} if items else set()
        held = missing.intersection(items)
        holders |= dict.fromkeys(held, file)
        missing -= held
    return holders


def bring_files(source: Files, target: Files, names: Sequence[str]) -> bool:
    """Link (or copy, from or to a bucket) the committed files ``names`` of ``source`` into ``target``. False where one is gone."""
    try:
        match source, target:
            case LocalFiles(), LocalFiles():
                link_all((source.path(name), target.path(name)) for name in names)
            case _:
                for name in names:
                    target.commit_once(name, source.read(name))
    except FileNotFoundError:
        return False
    return True
