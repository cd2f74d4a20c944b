"""The tables that a selection reads, as Parquet files or Arrow tables, in pieces of a row group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets.tables import CANDIDATES, PROMPTS, ROWS_PER_GROUP, SCORES, Table, check_file, conform

Part: TypeAlias = "Path | pa.Table"
Result = TypeVar("Result")
NOTHING: Mapping[str, str] = MappingProxyType({})

PIECE_GROUPS = 8
"""Row groups of a piece: enough work for a thread, and few enough for bounded memory."""


@dataclass(frozen=True)
class SelectionSource:
    """Prompts, candidates and scores, each in any number of parts. Without prompts, every candidate may be paired.

    ``training_only``: prompts of other splits are left out, with their candidates and scores. ``threads``: number of threads that
    read; results do not depend on it.
    """

    prompts: tuple[Part, ...]
    candidates: tuple[Part, ...]
    scores: tuple[Part, ...]
    training_only: bool = False
    threads: int = 2


def source_of(
    tables: Mapping[str, pa.Table | Sequence[Part]], training_only: bool = False, threads: int = 2
) -> SelectionSource:
    """A source of tables by name (``prompts`` may be absent): an Arrow table, or a list of files.

    Raises TableError for a part that is not of its table.
    """
    parts = {table.name: _parts(table, tables.get(table.name, ())) for table in (PROMPTS, CANDIDATES, SCORES)}
    return SelectionSource(**parts, training_only=training_only, threads=threads)


@dataclass(frozen=True)
class Piece:
    """Some row groups of one part, in the order of the table.

    ``first_row``: the number of rows of all parts that precede the piece.
    """

    part: Part
    groups: tuple[int, ...]
    dictionaries: tuple[str, ...]
    metadata: pq.FileMetaData | None
    first_row: int = 0

    def read(self, columns: Sequence[str], unless: Mapping[str, str] = NOTHING) -> Iterator[tuple[int, pa.Table]]:
        """Number of each row group, and its columns; those of ``dictionaries`` are dictionary-encoded.

        ``unless``: name of a column → text. The column is not read where the file's statistics say that all its rows have this text.
        """
        if isinstance(self.part, Path):
            options = {"metadata": self.metadata, "read_dictionary": list(self.dictionaries), "pre_buffer": False}
            with pq.ParquetFile(self.part, **options) as file:
                for group in self.groups:
                    known = [name for name, text in unless.items() if self._only_text(group, name) == text]
                    wanted = [name for name in columns if name not in known]
                    yield group, file.read_row_group(group, columns=wanted, use_threads=False)
            return
        for group in self.groups:
            rows = self.part.select(columns).slice(group * ROWS_PER_GROUP, ROWS_PER_GROUP).combine_chunks()
            yield group, _encoded(rows, self.dictionaries)

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group of the piece."""
        return next(rows for _, rows in replace(self, groups=(group,)).read(columns))

    def bounds(self, column: str) -> tuple[int, int] | None:
        """Bounds of whole numbers, from the statistics of a file; None where they are not known."""
        known = [self._statistics(group, column) for group in self.groups]
        bounds = [(own.min, own.max) for own in known if own is not None]
        if not bounds or len(bounds) < len(known):
            return None
        return min(low for low, _ in bounds), max(high for _, high in bounds)

    def _only_text(self, group: int, column: str) -> str | None:
        """The text that every row of ``column`` has in this row group, if the file's statistics say so; None otherwise."""
        own = self._statistics(group, column)
        return str(own.min) if own is not None and own.min == own.max else None

    def _statistics(self, group: int, column: str) -> pq.Statistics | None:
        """Statistics of a column without nulls; None where there are none."""
        if self.metadata is None:
            return None
        place = self.metadata.schema.names.index(column)
        own = self.metadata.row_group(group).column(place).statistics
        is_known = own is not None and own.has_min_max and own.has_null_count and not own.null_count
        return own if is_known else None


def pieces(parts: Iterable[Part], dictionaries: Sequence[str]) -> list[Piece]:
    """The row groups of ``parts``, in order."""
    split, first_row = [], 0
    for part in parts:
        metadata = pq.read_metadata(part) if isinstance(part, Path) else None
        rows_of_groups = _rows_of_groups(part, metadata)
        for start in range(0, len(rows_of_groups), PIECE_GROUPS):
            groups = tuple(range(start, min(start + PIECE_GROUPS, len(rows_of_groups))))
            split.append(Piece(part, groups, tuple(dictionaries), metadata, first_row))
            first_row += sum(rows_of_groups[group] for group in groups)
    return split


def num_rows(parts: Iterable[Part]) -> int:
    """Rows of all parts."""
    return sum(pq.read_metadata(part).num_rows if isinstance(part, Path) else part.num_rows for part in parts)


def _rows_of_groups(part: Part, metadata: pq.FileMetaData | None) -> list[int]:
    if metadata is not None:
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert not isinstance(part, Path), "files have metadata"
    return [min(ROWS_PER_GROUP, part.num_rows - start) for start in range(0, part.num_rows, ROWS_PER_GROUP)]


def in_order(function: Callable[[Piece], Result], split: Sequence[Piece], threads: int) -> Iterator[Result]:
    """``function`` of every piece, computed by threads and given in the order of ``split``; few results wait at a time."""
    if threads == 1 or len(split) == 1:
        yield from map(function, split)
        return
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(split)
        waiting = [pool.submit(function, piece) for piece in islice(rest, 2 * threads)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(function, piece) for piece in islice(rest, 1)]


def _parts(table: Table, rows: pa.Table | Sequence[Part]) -> tuple[Part, ...]:
    if isinstance(rows, pa.Table):
        return (conform(table, rows),)
    for part in rows:
        if isinstance(part, Path):
            check_file(part, table)
    return tuple(part if isinstance(part, Path) else conform(table, part) for part in rows)


def _encoded(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        if name in rows.column_names:
            index = rows.column_names.index(name)
            rows = rows.set_column(index, name, rows[name].dictionary_encode())
    return rows
