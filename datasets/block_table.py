"""A table that is made in blocks of rows when they are asked for, so that a large one is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import starmap

import pyarrow as pa

from avpref.datasets.reused_memory import reused_memory

ROWS_PER_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class BlockTable:
    """``num_rows`` rows of a table. ``make(start, end)`` makes those from ``start`` to ``end`` and may be called from several threads.

    All blocks have one schema, also an empty one.
    """

    num_rows: int
    make: Callable[[int, int], pa.Table]
    threads: int = 1

    @staticmethod
    def of(table: pa.Table) -> BlockTable:
        """The rows of a table that is in memory."""
        return BlockTable(table.num_rows, lambda start, end: table.slice(start, end - start))

    def changed(self, change: Callable[[pa.Table], pa.Table]) -> BlockTable:
        """The table after ``change`` of every block, which keeps the number of rows."""
        return replace(self, make=lambda start, end: change(self.make(start, end)))

    def blocks(self, start: int, end: int) -> Iterator[pa.Table]:
        """The rows from ``start`` to ``end``, one block after another."""
        return starmap(self.make, _bounds(start, end))

    @reused_memory()
    def whole(self) -> pa.Table:
        """All rows."""
        if self.num_rows <= ROWS_PER_BLOCK:
            return self.make(0, self.num_rows)
        with ThreadPoolExecutor(self.threads) as pool:
            return pa.concat_tables(pool.map(self.make, *zip(*_bounds(0, self.num_rows), strict=True)))


def _bounds(start: int, end: int) -> Iterator[tuple[int, int]]:
    """First row of every block, and the row after its last one."""
    return ((first, min(first + ROWS_PER_BLOCK, end)) for first in range(start, end, ROWS_PER_BLOCK))
