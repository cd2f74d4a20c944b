"""Where finished work may be found: unit files of a stage in a folder and in the folders beside it, and the items in them.

A unit's path names the stage and everything that it depends on (the stage fingerprint, product version included), so the same
fingerprint and the same item id mean the same work. Files are committed whole, so a neighbour that is being written to may be
read: what is under way there is not found yet. A file that cannot be read is passed over, and its work is done anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.store import TEMPORARY_PREFIX

UNITS = "units"
SUFFIX = ".parquet"
UNREADABLE = (OSError, pa.ArrowException)


@dataclass(frozen=True)
class UnitFile:
    """A committed unit: the folder (of a run, say) that owns it, and its path."""

    root: Path
    path: Path

    @property
    def fingerprint(self) -> str:
        """The stage fingerprint that it was made under."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """The unit's derived name."""
        return self.path.name.removesuffix(SUFFIX)

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Its rows without metadata, of ``columns`` or all; None where it is gone or cannot be read."""
        try:
            found = pq.ParquetFile(self.path).read(columns=columns, use_threads=False)
        except UNREADABLE:
            return None
        return found.replace_schema_metadata(None)


@dataclass(frozen=True)
class Neighbours:
    """A folder, and the folders beside it in the order of their names. Looking costs one listing and one question per folder."""

    root: Path

    def folders(self) -> list[Path]:
        """The folders beside this one."""
        with os.scandir(self.root.parent) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir() and entry.name != self.root.name]
        return sorted(found)

    def files(self, stage: str, fingerprint: str) -> Iterator[UnitFile]:
        """Unit files of one stage and fingerprint: this folder's own, then those of the others."""
        for root in (self.root, *self.folders()):
            yield from _units_in(root, root / UNITS / stage / fingerprint)

    def elsewhere(self, stage: str, fingerprint: str) -> Iterator[list[UnitFile]]:
        """Unit files of one stage under other fingerprints, a list for each folder of them."""
        for root in (self.root, *self.folders()):
            for name in _names_in(root / UNITS / stage):
                if name != fingerprint:
                    yield list(_units_in(root, root / UNITS / stage / name))


def find(
    files: Iterable[UnitFile], key: str, wanted: Mapping[str, Sequence[str]], done: Iterable[str] = ()
) -> dict[str, UnitFile]:
    """The file that holds each item of ``wanted``, as far as ``files`` hold them; the first file counts.

    ``wanted`` has the items of each missing unit by the unit's name: a file of that name covers exactly these and is not opened.
    Of others the column ``key`` is read, once for each name: equal names cover equal items. Names in ``done`` are not looked at.
    """
    left = {item for items in wanted.values() for item in items}
    found: dict[str, UnitFile] = {}
    seen = set(done)
    for file in files:
        if not left:
            break
        if file.name in seen:
            continue
        items = wanted.get(file.name)
        if items is None:
            rows = file.rows([key])
            items = [] if rows is None else rows[key].unique().to_pylist()
        seen |= {file.name} if items else set()
        mine = left.intersection(items)
        found |= dict.fromkeys(mine, file)
        left -= mine
    return found


def _units_in(root: Path, folder: Path) -> Iterator[UnitFile]:
    for name in _names_in(folder):
        if name.endswith(SUFFIX) and not name.startswith(TEMPORARY_PREFIX):
            yield UnitFile(root, folder / name)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
