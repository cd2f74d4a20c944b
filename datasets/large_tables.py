"""Tables in memory as the files of a sealed table: large ones as several files, which threads encode."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from avpref.datasets.tables import bytes_of, to_bytes

ROWS_PER_FILE = 1 << 18
SAMPLE = 1 << 12
"""First rows of a large table, which tell whether the texts of a column repeat."""
LEVEL = 1
"""Of Zstandard, for large tables: most of their bytes are measured numbers and ids, which no level makes much smaller."""


def to_files(arrow: pa.Table) -> list[tuple[bytes, int]]:
    """The files of a sealed table, each with its number of rows: one, as :func:`avpref.datasets.tables.to_bytes` makes it, or several
    of :data:`ROWS_PER_FILE` rows. Equal content gives equal bytes, whatever the chunks and the number of threads."""
    if arrow.num_rows <= ROWS_PER_FILE:
        return [(to_bytes(arrow), arrow.num_rows)]
    parts = [[arrow.slice(start, ROWS_PER_FILE)] for start in range(0, arrow.num_rows, ROWS_PER_FILE)]
    encode = partial(bytes_of, arrow.schema, level=LEVEL, distinct=_distinct_texts(arrow))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(encode, parts))


def _distinct_texts(arrow: pa.Table) -> list[str]:
    """The columns of texts of which more than half of the first rows differ."""
    first = arrow.slice(0, SAMPLE)
    texts = [field.name for field in arrow.schema if pa.types.is_string(field.type)]
    return [name for name in texts if 2 * pc.count_distinct(first[name]).as_py() > first.num_rows]
