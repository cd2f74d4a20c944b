"""Tables as the files of a sealed table: large ones as several files, which threads make and encode."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avpref.datasets.block_table import BlockTable
from avpref.datasets.reused_memory import reused_memory
from avpref.datasets.tables import ROWS_PER_GROUP, bytes_of, to_bytes

ROWS_PER_FILE = 1 << 18
SAMPLE = 1 << 12
"""First rows of a large table, which tell whether the values of a column repeat."""
LEVEL = 1
"""Of Zstandard, for large tables: most of their bytes are measured numbers and ids, which no level makes much smaller."""


@reused_memory()
def to_files(rows: pa.Table | BlockTable) -> list[tuple[bytes, int]]:
    """The files of a sealed table, each with its number of rows: one, as :func:`avpref.datasets.tables.to_bytes` makes it, or several
    of at most :data:`ROWS_PER_FILE` rows. Equal content gives equal bytes, whatever the blocks, chunks and number of threads.

    In large tables, numbers that rarely repeat are not compressed: it makes them 4 % smaller and takes nearly half the time of writing.
    """
    table = rows if isinstance(rows, BlockTable) else BlockTable.of(rows)
    if table.num_rows <= ROWS_PER_FILE:
        return [(to_bytes(table.whole()), table.num_rows)]
    first = table.make(0, SAMPLE)
    distinct, plain = (_distinct(first, is_kind) for is_kind in (pa.types.is_string, pa.types.is_floating))
    levels = {name: LEVEL for name in _leaves(first.schema) if name not in plain}
    codec = {"compression": dict.fromkeys(plain, "none") | dict.fromkeys(levels, "zstd"), "compression_level": levels}

    def encode(bounds: tuple[int, int]) -> tuple[bytes, int]:
        start, end = bounds
        reserved_bytes = first.nbytes * (end - start) // first.num_rows
        return bytes_of(first.schema, table.blocks(start, end), distinct, codec, reserved_bytes)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(encode, pairwise(_bounds(table.num_rows))))


def _bounds(num_rows: int) -> list[int]:
    """First rows of files that have about as many row groups each, so that threads end together, and the number of rows."""
    num_files, num_groups = math.ceil(num_rows / ROWS_PER_FILE), math.ceil(num_rows / ROWS_PER_GROUP)
    return [min(num_groups * file // num_files * ROWS_PER_GROUP, num_rows) for file in range(num_files + 1)]


def _leaves(schema: pa.Schema) -> list[str]:
    """Names of the columns of a Parquet file, which has others than the schema for lists."""
    empty = pa.BufferReader(to_bytes(schema.empty_table()))
    columns = pq.read_metadata(empty).schema
    return [columns.column(place).path for place in range(len(columns))]


def _distinct(first: pa.Table, is_kind: Callable[[pa.DataType], bool]) -> list[str]:
    """The columns of a kind of which more than half of the rows of ``first`` differ."""
    names = [field.name for field in first.schema if is_kind(field.type)]
    return [name for name in names if 2 * pc.count_distinct(first[name]).as_py() > first.num_rows]
