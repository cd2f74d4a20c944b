"""Columns of texts that are made by threads, in chunks of a row group."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.datasets.tables import ROWS_PER_GROUP


def take(texts: pa.Array, places: NDArray[np.integer], threads: int) -> pa.ChunkedArray:
    """The texts at ``places`` [N]."""
    starts = range(0, len(places), ROWS_PER_GROUP)
    with ThreadPoolExecutor(threads) as pool:
        chunks = list(pool.map(lambda start: texts.take(pa.array(places[start : start + ROWS_PER_GROUP])), starts))
    return pa.chunked_array(chunks, texts.type)


def constant(text: str, count: int) -> pa.ChunkedArray:
    """``text``, ``count`` times; the chunks share their memory."""
    chunk = pa.repeat(pa.scalar(text, pa.string()), min(count, ROWS_PER_GROUP))
    num_whole, rest = divmod(count, ROWS_PER_GROUP)
    return pa.chunked_array([*[chunk] * num_whole, chunk.slice(0, rest)], pa.string())
