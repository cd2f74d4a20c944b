"""What a stage need not do: its plan minus every item that some unit file here or in a run beside this one already holds.

A planned unit that does not exist is looked for item by item, column by column (a column is one scorer's, or a stage's only one):

    all of its items found     its file is written from the rows that were found
    none found                 it is run as it is
    some found                 items that are not found are packed into full units and run; then its file is composed of both

So a plan's names stay what they are, an unchanged second run asks for names alone, and where nothing is found nothing is different.
What was found for units that are to be composed is first committed here, so that a kill loses none of it and nothing depends on
the neighbour any longer. An item that a neighbour gave up on has no row there, so it is tried again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from avpref.execution.plan import Shard
from avpref.storage.files import Files
from avpref.storage.sibling_runs import SiblingRun, UnitFile, find, itself_and_siblings, unit_files
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


class Bring(Protocol):
    """Takes what rows refer to (media, embeddings) over from another folder."""

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """Make ``rows`` of a neighbour's ``file`` true here; returns those that may be used, as they are to be written."""
        ...


def bring_nothing(file: UnitFile, rows: pa.Table) -> pa.Table:
    """Rows that refer to nothing are true everywhere."""
    return rows


Elsewhere = Callable[[str, str, Sequence[Any]], dict[str, UnitFile]]
"""(stage, fingerprint, items that were not found) → the files of other fingerprints that hold some of them all the same."""


@dataclass(frozen=True)
class Reuse:
    """How one stage's finished items are found and taken over.

    ``store`` owns ``files``; ``siblings`` are looked into after it. ``key`` is the column of the files' table with the items' ids;
    ``parts`` gives a unit as each column commits it. ``counted`` is what items times columns are called, where that is not what
    the stage's items are called.
    """

    files: UnitFiles
    store: Files
    siblings: Callable[[], Sequence[SiblingRun]]
    key: str
    parts: Callable[[Unit], Sequence[Unit]] = lambda unit: [unit]
    bring: Bring = bring_nothing
    elsewhere: Elsewhere | None = None
    counted: str = ""


@dataclass(frozen=True)
class Composition:
    """Planned parts of one column that are written from rows of ``pieces``."""

    parts: tuple[Unit, ...]
    pieces: tuple[Unit, ...]


@dataclass(frozen=True)
class ShardWork:
    """What is left of a shard: units for the ladder, then planned units that are composed of theirs and of what was found."""

    units: tuple[Unit, ...]
    compositions: tuple[Composition, ...] = ()

    @property
    def num_items(self) -> int:
        """Items that are to be made."""
        return sum(len(unit.items) for unit in self.units)


@dataclass
class Taken:
    """What a stage's plan came to: work by shard, and items (times columns) that were there, are missing, or were taken over."""

    work: dict[int, ShardWork] = field(default_factory=dict)
    present: int = 0
    missing: int = 0
    reused: Counter[str] = field(default_factory=Counter)


def take_over(reuse: Reuse, shards: Sequence[Shard]) -> Taken:
    """Take over what is found of ``shards``, shard by shard; returns what is left to do and what was found where.

    Raises StorageError where this folder cannot be written.
    """
    taken = Taken()
    found = _found_by_column(reuse, shards)
    size = max((len(unit.items) for shard in shards for unit in shard.units), default=1)
    for shard in shards:
        taken.work[shard.ordinal] = _Taking(reuse, shard, found, size, taken).run()
    return taken


def compose(reuse: Reuse, work: ShardWork) -> None:
    """Write the planned units of a shard whose pieces are finished; what the pieces gave up on goes with them."""
    for each in work.compositions:
        rows, lost = reuse.files.read(each.pieces)
        found = _Rows(rows, reuse.key)
        for part in each.parts:
            items = {item.item_id for item in part.items}
            reuse.files.commit_rows(part, found.of(part.items), [row for row in lost if row.candidate_id in items])


class _Rows:
    """Rows by item."""

    def __init__(self, rows: pa.Table, key: str) -> None:
        self.rows = rows
        self.at: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(rows[key].to_pylist()):
            self.at[item].append(index)

    def __contains__(self, item: Any) -> bool:
        return item.item_id in self.at

    def of(self, items: Iterable[Any]) -> pa.Table:
        """Rows of ``items``, in their order."""
        return self.rows.take(pa.array([row for item in items for row in self.at.get(item.item_id, ())], pa.int64()))


Found = Mapping[str, UnitFile]
"""Which file holds an item of a column."""


def _found_by_column(reuse: Reuse, shards: Sequence[Shard]) -> list[Found]:
    """Look for every missing part, column by column. Where nothing is missing nothing is looked for."""
    missing: dict[int, dict[str, Unit]] = defaultdict(dict)
    done: dict[int, set[str]] = defaultdict(set)
    num_columns = 0
    for unit in (unit for shard in shards for unit in shard.units):
        parts = reuse.parts(unit)
        num_columns = len(parts)
        for column, part in enumerate(parts):
            if reuse.files.exists(part):
                done[column].add(part.name)
            else:
                missing[column][part.name] = part
    return [_look(reuse, missing[column], done[column]) for column in range(num_columns)]


def _look(reuse: Reuse, missing: Mapping[str, Unit], done: set[str]) -> Found:
    if not missing:
        return {}
    stage, fingerprint = next((part.stage, part.fingerprint) for part in missing.values())
    wanted = {name: [item.item_id for item in part.items] for name, part in missing.items()}
    owners = itself_and_siblings(reuse.store, reuse.siblings)
    found = find(unit_files(owners, stage, fingerprint), reuse.key, wanted, done)
    if reuse.elsewhere is None:
        return found
    left = [item for part in missing.values() for item in part.items if item.item_id not in found]
    return found | reuse.elsewhere(stage, fingerprint, left)


class _Taking:
    """One shard on its way to :class:`ShardWork`. Units are meant by their place in the shard, columns by theirs in a unit."""

    def __init__(self, reuse: Reuse, shard: Shard, found: Sequence[Found], size: int, taken: Taken) -> None:
        self.reuse, self.shard, self.size, self.taken = reuse, shard, size, taken
        self.parts = [reuse.parts(unit) for unit in shard.units]
        self.open = [[] for _ in found] if not self.parts else [self._missing(column) for column in range(len(found))]
        self.have = [self._bring(column, each) for column, each in enumerate(found)]

    def run(self) -> ShardWork:
        """Write what is complete, and say what is left."""
        taken, num_columns = self.taken, len(self.have)
        taken.present += num_columns * self.shard.num_items - sum(map(self._num_items, self.open))
        for column, places in enumerate(self.open):
            self.open[column] = [place for place in places if not self._complete(column, place)]
        left = sorted({place for places in self.open for place in places})
        mixed = [place for place in left if self._is_mixed(place)]
        plain = [place for place in left if place not in mixed]
        packed = self._packed(mixed)
        compositions = [self._composition(column, mixed, packed) for column in range(num_columns)]
        taken.missing += sum(self._num_items(set(places).intersection(plain)) for places in self.open)
        taken.missing += sum(len(lacking) * len(unit.items) for unit, lacking in packed)
        units = (*(self.shard.units[place] for place in plain), *(unit for unit, _ in packed))
        return ShardWork(units, tuple(each for each in compositions if each.parts))

    def _missing(self, column: int) -> list[int]:
        return [place for place, parts in enumerate(self.parts) if not self.reuse.files.exists(parts[column])]

    def _num_items(self, places: Iterable[int]) -> int:
        return sum(len(self.shard.units[place].items) for place in places)

    def _bring(self, column: int, found: Found) -> _Rows:
        """Rows of the shard's open units, taken over from the files that hold them."""
        by_file: dict[UnitFile, list[str]] = defaultdict(list)
        for item in (item.item_id for place in self.open[column] for item in self.shard.units[place].items):
            if item in found:
                by_file[found[item]].append(item)
        rows = [self._bring_from(file, items) for file, items in by_file.items()]
        none = self.reuse.files.read([])[0].replace_schema_metadata(None)
        return _Rows(pa.concat_tables([none, *(each for each in rows if each is not None)]), self.reuse.key)

    def _bring_from(self, file: UnitFile, items: Sequence[str]) -> pa.Table | None:
        rows = file.rows()
        if rows is None:
            return None
        rows = rows.filter(pc.is_in(rows[self.reuse.key], pa.array(items)))
        if not file.owner.name:
            self.taken.present += pc.count_distinct(rows[self.reuse.key]).as_py()
            return rows
        rows = self.reuse.bring(file, rows)
        self.taken.reused[file.owner.name] += pc.count_distinct(rows[self.reuse.key]).as_py()
        return rows

    def _complete(self, column: int, place: int) -> bool:
        """Write the planned unit where all of its items were found."""
        items, have = self.shard.units[place].items, self.have[column]
        if not all(item in have for item in items):
            return False
        self.reuse.files.commit_rows(self.parts[place][column], have.of(items), [])
        return True

    def _is_open(self, column: int, place: int) -> bool:
        return place in self.open[column]

    def _is_mixed(self, place: int) -> bool:
        """Whether some column has found some of the unit's items but not all."""
        columns = [column for column in range(len(self.have)) if self._is_open(column, place)]
        return any(item in self.have[column] for column in columns for item in self.shard.units[place].items)

    def _lacking(self, place: int, item: Any) -> tuple[int, ...]:
        columns = range(len(self.have))
        return tuple(column for column in columns if self._is_open(column, place) and item not in self.have[column])

    def _packed(self, mixed: Sequence[int]) -> list[tuple[Unit, tuple[int, ...]]]:
        """Full units of the items that mixed units lack, with the columns that lack them; other columns have theirs written."""
        lacking: dict[tuple[int, ...], list[tuple[int, Any]]] = defaultdict(list)
        for place in mixed:
            for item in self.shard.units[place].items:
                lacking[self._lacking(place, item)].append((place, item))
        packed = []
        for columns, items in lacking.items():
            for start in range(0, len(items) if columns else 0, self.size):
                piece = items[start : start + self.size]
                unit = replace(self.shard.units[0], items=tuple(item for _, item in piece))
                self._write_others(unit, columns, sorted({place for place, _ in piece}))
                packed.append((unit, columns))
        return packed

    def _write_others(self, unit: Unit, lacking: Sequence[int], places: Sequence[int]) -> None:
        """Give a packed unit its parts of the columns that lack nothing of it, so that workers make none of them again."""
        for column, part in enumerate(self.reuse.parts(unit)):
            if column in lacking:
                continue
            done = [self.parts[place][column] for place in places if not self._is_open(column, place)]
            rows, lost = self.reuse.files.read(done)
            known = _Rows(
                pa.concat_tables([self.have[column].rows, rows.replace_schema_metadata(None)]), self.reuse.key
            )
            items = {item.item_id for item in unit.items}
            self.reuse.files.commit_rows(part, known.of(unit.items), [row for row in lost if row.candidate_id in items])

    def _composition(
        self, column: int, mixed: Sequence[int], packed: Sequence[tuple[Unit, tuple[int, ...]]]
    ) -> Composition:
        """The column's planned parts of mixed units; what was found of them is committed as a piece of its own."""
        places = [place for place in mixed if self._is_open(column, place)]
        items = [item for place in places for item in self.shard.units[place].items if item in self.have[column]]
        pieces = [unit for unit, lacking in packed if column in lacking]
        if items:
            piece = replace(self.shard.units[0], items=tuple(items))
            self.reuse.files.commit_rows(self.reuse.parts(piece)[column], self.have[column].of(items), [])
            pieces.append(piece)
        parts = tuple(self.parts[place][column] for place in places)
        return Composition(parts, tuple(self.reuse.parts(piece)[column] for piece in pieces))
