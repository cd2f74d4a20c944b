"""The tables that a selection reads, as Parquet files or Arrow tables, in pieces of a row group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets.tables import CANDIDATES, PROMPTS, ROWS_PER_GROUP, SCORES, Table, check_file, conform

Part: TypeAlias = "Path | pa.Table"
Result = TypeVar("Result")

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
    """Some row groups of one part, in the order of the table."""

    part: Part
    groups: tuple[int, ...]
    dictionaries: tuple[str, ...]
    metadata: pq.FileMetaData | None

    def read(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Number of each row group, and its columns; those of ``dictionaries`` are dictionary-encoded."""
        if isinstance(self.part, Path):
            with pq.ParquetFile(self.part, metadata=self.metadata, read_dictionary=list(self.dictionaries)) as file:
                for group in self.groups:
                    yield group, file.read_row_group(group, columns=list(columns), use_threads=False)
            return
        for group in self.groups:
            rows = self.part.select(columns).slice(group * ROWS_PER_GROUP, ROWS_PER_GROUP).combine_chunks()
            yield group, _encoded(rows, self.dictionaries)

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group of the piece."""
        return next(rows for _, rows in replace(self, groups=(group,)).read(columns))


def pieces(parts: Iterable[Part], dictionaries: Sequence[str]) -> list[Piece]:
    """The row groups of ``parts``, in order."""
    split = []
    for part in parts:
        metadata = None
        if isinstance(part, Path):
            metadata = pq.read_metadata(part)
            num_groups = metadata.num_row_groups
        else:
            num_groups = -(-part.num_rows // ROWS_PER_GROUP)
        for start in range(0, num_groups, PIECE_GROUPS):
            groups = tuple(range(start, min(start + PIECE_GROUPS, num_groups)))
            split.append(Piece(part, groups, tuple(dictionaries), metadata))
    return split


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
