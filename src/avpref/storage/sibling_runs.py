"""Where finished work may be found: unit files of a stage in a folder and in the folders beside it, and the items in them.

A unit's name says the stage and everything that it depends on (the stage fingerprint, product version included), so the same
fingerprint and the same item id mean the same work. Files are committed whole, so a neighbour that is being written to may be
read: what is under way there is not found yet. A file that cannot be read is passed over, and its work is done anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.storage.files import Files
from avpref.storage.links import link_all
from avpref.storage.local_files import LocalFiles

UNITS = "units"
SUFFIX = ".parquet"
UNREADABLE = (OSError, pa.ArrowException)


@dataclass(frozen=True)
class Neighbour:
    """A folder beside another one (a run beside a run) and what is true in it. Without a name it is the folder itself."""

    name: str
    files: Files


@dataclass(frozen=True)
class UnitFile:
    """A committed unit: who owns it, and its name in the owner's files."""

    owner: Neighbour
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
        """Its rows without metadata, of ``columns`` or all; None where it is gone or cannot be read."""
        try:
            with self.owner.files.open(self.name) as stream:
                found = pq.ParquetFile(stream).read(columns=columns, use_threads=False)
        except UNREADABLE:
            return None
        return found.replace_schema_metadata(None)


def folders_beside(root: Path) -> list[Neighbour]:
    """The folders beside ``root``, in the order of their names."""
    found = sorted(path for path in root.parent.iterdir() if path.name != root.name and path.is_dir())
    return [Neighbour(path.name, LocalFiles(path)) for path in found]


def here_and_beside(place: Files, beside: Callable[[], Sequence[Neighbour]]) -> list[Neighbour]:
    """``place`` itself, then its neighbours."""
    return [Neighbour("", place), *beside()]


def unit_files(owners: Iterable[Neighbour], stage: str, fingerprint: str) -> Iterator[UnitFile]:
    """Unit files of one stage and fingerprint, owner by owner: one listing each."""
    for owner in owners:
        for name in owner.files.children(f"{UNITS}/{stage}/{fingerprint}"):
            if name.endswith(SUFFIX):
                yield UnitFile(owner, name)


def units_by_fingerprint(owners: Iterable[Neighbour], stage: str) -> Iterator[list[UnitFile]]:
    """Unit files of one stage under whatever fingerprint, a list for each owner and fingerprint."""
    for owner in owners:
        names = [name for name in owner.files.names(f"{UNITS}/{stage}") if name.endswith(SUFFIX)]
        for _, group in groupby(names, lambda name: PurePosixPath(name).parent):
            yield [UnitFile(owner, name) for name in group]


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
        if file.unit_name in seen:
            continue
        items = wanted.get(file.unit_name)
        if items is None:
            rows = file.rows([key])
            items = [] if rows is None else rows[key].unique().to_pylist()
        seen |= {file.unit_name} if items else set()
        mine = left.intersection(items)
        found |= dict.fromkeys(mine, file)
        left -= mine
    return found


def bring_files(source: Files, target: Files, names: Sequence[str]) -> bool:
    """Give ``target`` the committed files ``names`` of ``source``: as links where both are folders. False where one is gone."""
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
