"""Reuses finished items: before a stage runs, the items of its plan are searched for in unit files of this run and of its siblings.

A planned unit without a file is searched item by item and column by column (a scorer is a column; other stages have one):

    all of its items found     its file is written from the rows that were found
    none found                 it is run unchanged
    some found                 missing items are packed into full units and run; then its file is composed of both

The file names of a plan therefore do not change, a second run without changes only lists files, and where nothing is found
the stage runs as planned. Rows found for units that must be composed are committed in this run first, so that they survive
a kill and no longer depend on the sibling. An item that a sibling quarantined has no row there, so it is computed again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from avpref.execution.plan import Shard, StagePlan
from avpref.storage.files import Files
from avpref.storage.sibling_runs import SiblingRun, UnitFile, find, itself_and_siblings, unit_files
from avpref.storage.unit import Item, ItemT, ItemT_co, Unit
from avpref.storage.unit_files import UnitFiles


class Importer(Protocol):
    """Imports rows of a sibling's unit file, and the files that the rows refer to (media, embeddings)."""

    def __call__(self, file: UnitFile, rows: pa.Table) -> pa.Table:
        """Copy the files that ``rows`` of ``file`` refer to; returns the rows that may be reused, as they are to be written."""
        ...


def import_rows_as_they_are(file: UnitFile, rows: pa.Table) -> pa.Table:
    """The :class:`Importer` of rows that refer to no files."""
    return rows


FoundItems = Mapping[str, UnitFile]
"""Item id → the unit file that holds the item's row, for one column."""

SearchOtherFingerprints = Callable[[str, str, Sequence[ItemT]], dict[str, UnitFile]]
"""(stage, fingerprint, missing items) → unit files of other fingerprints that hold some of the items."""


@dataclass(frozen=True)
class Reuse(Generic[ItemT]):
    """Where the finished items of a stage are searched for, and how they are imported.

    Attributes:
        files: the unit files of the stage.
        store: all files of this run.
        siblings: the folders that are searched after this run.
        key: the column of the stage's table that holds the ids of the items.
        parts: a unit as it is committed, one part per column.
        importer: imports rows of siblings.
        search_others: finds items in unit files of other fingerprints; None if there can be none.
        item_noun: plural noun of items times columns (``scores``); empty for the noun of the plan.
    """

    files: UnitFiles
    store: Files
    siblings: Callable[[], Sequence[SiblingRun]]
    key: str
    parts: Callable[[Unit[ItemT]], Sequence[Unit[ItemT]]] = lambda unit: [unit]
    importer: Importer = import_rows_as_they_are
    search_others: SearchOtherFingerprints[ItemT] | None = None
    item_noun: str = ""


@dataclass(frozen=True)
class Composition:
    """Planned ``parts`` of one column that are written from the rows of ``pieces`` when these are finished."""

    parts: tuple[Unit[Item], ...]
    pieces: tuple[Unit[Item], ...]


@dataclass(frozen=True)
class RemainingWork(Generic[ItemT_co]):
    """Work of one shard after reuse: units that must run, and planned units that are composed afterwards."""

    units: tuple[Unit[ItemT_co], ...]
    compositions: tuple[Composition, ...] = ()

    @property
    def num_items(self) -> int:
        """Number of items that must be computed."""
        return sum(len(unit.items) for unit in self.units)


@dataclass
class ReusePlan(Generic[ItemT]):
    """Remaining work by shard, and the numbers of items (times columns).

    Attributes:
        work: the remaining work of every shard, by the shard's ordinal.
        present: items that this run already had.
        missing: items that must be computed.
        reused: items imported from siblings, by the name of the sibling.
    """

    work: dict[int, RemainingWork[ItemT]] = field(default_factory=dict)
    present: int = 0
    missing: int = 0
    reused: Counter[str] = field(default_factory=Counter)

    @property
    def units(self) -> list[Unit[ItemT]]:
        """All units that must run."""
        return [unit for work in self.work.values() for unit in work.units]


def plan_without_reuse(plan: StagePlan[ItemT], finished: Collection[str]) -> ReusePlan[ItemT]:
    """The plan without the units whose names are in ``finished``."""
    result: ReusePlan[ItemT] = ReusePlan()
    for shard in plan.shards:
        work = RemainingWork(tuple(unit for unit in shard.units if unit.name not in finished))
        result.work[shard.ordinal] = work
        result.missing += work.num_items
        result.present += shard.num_items - work.num_items
    return result


def reuse_items(reuse: Reuse[ItemT], plan: StagePlan[ItemT]) -> ReusePlan[ItemT]:
    """Import the finished items of ``plan``, shard by shard; returns the remaining work and the counts.

    Raises StorageError if this run's folder cannot be written.
    """
    result: ReusePlan[ItemT] = ReusePlan()
    found = _find_by_column(reuse, plan)
    unit_size = plan.unit_size or max((len(unit.items) for unit in plan.units), default=1)
    for shard in plan.shards:
        result.work[shard.ordinal] = _ShardReuse(reuse, shard, found, unit_size, result).run()
    return result


def write_compositions(reuse: Reuse[ItemT], work: RemainingWork[ItemT]) -> None:
    """Write the planned units of a shard that are composed of finished pieces, with the pieces' quarantine rows."""
    for composition in work.compositions:
        table, quarantined = reuse.files.read(composition.pieces)
        rows = _RowsByItem(table, reuse.key)
        for part in composition.parts:
            ids = {item.item_id for item in part.items}
            part_quarantined = [row for row in quarantined if row.candidate_id in ids]
            reuse.files.commit_rows(part, rows.of(part.items), part_quarantined)


class _RowsByItem:
    """A table whose rows are looked up by item; ``key`` is its column of item ids."""

    def __init__(self, table: pa.Table, key: str) -> None:
        self.table = table
        self._indices: dict[str, list[int]] = defaultdict(list)
        for index, item_id in enumerate(table[key].to_pylist()):
            self._indices[item_id].append(index)

    def __contains__(self, item: Item) -> bool:
        return item.item_id in self._indices

    def of(self, items: Iterable[Item]) -> pa.Table:
        """Rows of ``items``, in their order."""
        indices = [index for item in items for index in self._indices.get(item.item_id, ())]
        return self.table.take(pa.array(indices, pa.int64()))


def _find_by_column(reuse: Reuse[ItemT], plan: StagePlan[ItemT]) -> list[FoundItems]:
    """Search for the items of every missing part, column by column; no search where nothing is missing."""
    missing: dict[int, dict[str, Unit[ItemT]]] = defaultdict(dict)
    finished: dict[int, set[str]] = defaultdict(set)
    num_columns = 0
    for unit in plan.units:
        parts = reuse.parts(unit)
        num_columns = len(parts)
        for column, part in enumerate(parts):
            if reuse.files.exists(part):
                finished[column].add(part.name)
            else:
                missing[column][part.name] = part
    return [_find_items(reuse, missing[column], finished[column]) for column in range(num_columns)]


def _find_items(reuse: Reuse[ItemT], missing: Mapping[str, Unit[ItemT]], finished: set[str]) -> FoundItems:
    """Search for the items of ``missing`` parts of one column; files named as in ``finished`` are not opened."""
    if not missing:
        return {}
    stage, fingerprint = next((part.stage, part.fingerprint) for part in missing.values())
    wanted = {name: [item.item_id for item in part.items] for name, part in missing.items()}
    owners = itself_and_siblings(reuse.store, reuse.siblings)
    found = find(unit_files(owners, stage, fingerprint), reuse.key, wanted, finished)
    if reuse.search_others is None:
        return found
    not_found = [item for part in missing.values() for item in part.items if item.item_id not in found]
    return found | reuse.search_others(stage, fingerprint, not_found)


@dataclass(frozen=True)
class _PackedUnit(Generic[ItemT]):
    """A full unit of missing items, and the columns that must be computed for it."""

    unit: Unit[ItemT]
    columns: tuple[int, ...]


class _ShardReuse(Generic[ItemT]):
    """Reuse within one shard. Units are given by their index in the shard, columns by their index in ``reuse.parts``.

    Counts are added to ``result``.
    """

    def __init__(
        self,
        reuse: Reuse[ItemT],
        shard: Shard[ItemT],
        found: Sequence[FoundItems],
        unit_size: int,
        result: ReusePlan[ItemT],
    ) -> None:
        self.reuse, self.shard, self.unit_size, self.result = reuse, shard, unit_size, result
        self.parts = [reuse.parts(unit) for unit in shard.units]
        columns = range(len(found))
        self.unfinished = [self._missing_units(column) if self.parts else [] for column in columns]
        self.rows = [self._import_items(column, found[column]) for column in columns]

    def run(self) -> RemainingWork[ItemT]:
        """Write the units whose items were all found; returns the remaining work."""
        result, columns = self.result, range(len(self.rows))
        result.present += len(columns) * self.shard.num_items - sum(map(self._num_items, self.unfinished))
        for column, indices in enumerate(self.unfinished):
            self.unfinished[column] = [index for index in indices if not self._write_if_found(column, index)]
        remaining = sorted({index for indices in self.unfinished for index in indices})
        partly_found = [index for index in remaining if self._is_partly_found(index)]
        not_found = [index for index in remaining if index not in partly_found]
        packed = self._pack_missing_items(partly_found)
        compositions = [self._composition(column, partly_found, packed) for column in columns]
        result.missing += sum(self._num_items(set(indices).intersection(not_found)) for indices in self.unfinished)
        result.missing += sum(len(pack.columns) * len(pack.unit.items) for pack in packed)
        units = (*(self.shard.units[index] for index in not_found), *(pack.unit for pack in packed))
        return RemainingWork(units, tuple(composition for composition in compositions if composition.parts))

    def _missing_units(self, column: int) -> list[int]:
        return [index for index, parts in enumerate(self.parts) if not self.reuse.files.exists(parts[column])]

    def _num_items(self, indices: Iterable[int]) -> int:
        return sum(len(self.shard.units[index].items) for index in indices)

    def _import_items(self, column: int, found: FoundItems) -> _RowsByItem:
        """Rows of the shard's unfinished units, imported from the files that hold them."""
        by_file: dict[UnitFile, list[str]] = defaultdict(list)
        units = [self.shard.units[index] for index in self.unfinished[column]]
        for item_id in (item.item_id for unit in units for item in unit.items):
            if item_id in found:
                by_file[found[item_id]].append(item_id)
        imported = [self._import_from(file, ids) for file, ids in by_file.items()]
        empty = self.reuse.files.read([])[0].replace_schema_metadata(None)
        return _RowsByItem(pa.concat_tables([empty, *(rows for rows in imported if rows is not None)]), self.reuse.key)

    def _import_from(self, file: UnitFile, ids: Sequence[str]) -> pa.Table | None:
        rows = file.rows()
        if rows is None:
            return None
        rows = rows.filter(pc.is_in(rows[self.reuse.key], pa.array(ids)))
        if not file.owner.name:
            self.result.present += pc.count_distinct(rows[self.reuse.key]).as_py()
            return rows
        rows = self.reuse.importer(file, rows)
        self.result.reused[file.owner.name] += pc.count_distinct(rows[self.reuse.key]).as_py()
        return rows

    def _write_if_found(self, column: int, index: int) -> bool:
        """Write the planned unit if all of its items were found; returns whether they were."""
        items, rows = self.shard.units[index].items, self.rows[column]
        if not all(item in rows for item in items):
            return False
        self.reuse.files.commit_rows(self.parts[index][column], rows.of(items), [])
        return True

    def _is_unfinished(self, column: int, index: int) -> bool:
        return index in self.unfinished[column]

    def _is_partly_found(self, index: int) -> bool:
        """Whether some of the unit's items, but not all, were found for some column."""
        columns = [column for column in range(len(self.rows)) if self._is_unfinished(column, index)]
        return any(item in self.rows[column] for column in columns for item in self.shard.units[index].items)

    def _missing_columns(self, index: int, item: Item) -> tuple[int, ...]:
        columns = range(len(self.rows))
        return tuple(c for c in columns if self._is_unfinished(c, index) and item not in self.rows[c])

    def _pack_missing_items(self, partly_found: Sequence[int]) -> list[_PackedUnit[ItemT]]:
        """Pack the missing items of partly found units into full units, by the columns that lack them.

        The other columns of a packed unit are written at once.
        """
        missing: dict[tuple[int, ...], list[tuple[int, ItemT]]] = defaultdict(list)
        for index in partly_found:
            for item in self.shard.units[index].items:
                missing[self._missing_columns(index, item)].append((index, item))
        packed = []
        for columns, items in missing.items():
            for start in range(0, len(items) if columns else 0, self.unit_size):
                members = items[start : start + self.unit_size]
                unit = replace(self.shard.units[0], items=tuple(item for _, item in members))
                self._write_found_columns(unit, columns, sorted({index for index, _ in members}))
                packed.append(_PackedUnit(unit, columns))
        return packed

    def _write_found_columns(self, unit: Unit[ItemT], missing: Sequence[int], indices: Sequence[int]) -> None:
        """Write the parts of a packed unit whose columns were found for all items, so that workers do not compute them again."""
        for column, part in enumerate(self.reuse.parts(unit)):
            if column in missing:
                continue
            finished = [self.parts[index][column] for index in indices if not self._is_unfinished(column, index)]
            table, quarantined = self.reuse.files.read(finished)
            tables = [self.rows[column].table, table.replace_schema_metadata(None)]
            rows = _RowsByItem(pa.concat_tables(tables), self.reuse.key)
            ids = {item.item_id for item in unit.items}
            part_quarantined = [row for row in quarantined if row.candidate_id in ids]
            self.reuse.files.commit_rows(part, rows.of(unit.items), part_quarantined)

    def _composition(
        self, column: int, partly_found: Sequence[int], packed: Sequence[_PackedUnit[ItemT]]
    ) -> Composition:
        """The column's planned parts of partly found units; their found rows are committed as a piece of its own."""
        indices = [index for index in partly_found if self._is_unfinished(column, index)]
        items = [item for index in indices for item in self.shard.units[index].items if item in self.rows[column]]
        pieces = [pack.unit for pack in packed if column in pack.columns]
        if items:
            piece = replace(self.shard.units[0], items=tuple(items))
            self.reuse.files.commit_rows(self.reuse.parts(piece)[column], self.rows[column].of(items), [])
            pieces.append(piece)
        parts = tuple(self.parts[index][column] for index in indices)
        return Composition(parts, tuple(self.reuse.parts(piece)[column] for piece in pieces))
