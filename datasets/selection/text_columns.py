"""Columns of texts that are made by threads, in chunks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.datasets.selection.text_hashes import characters_of, common_length
from avpref.datasets.tables import ROWS_PER_GROUP

CHUNK = 1 << 18
"""Texts of a chunk."""
MAX_OFFSET = 2**31 - 1


def take(texts: pa.Array, places: NDArray[np.integer], threads: int) -> pa.ChunkedArray:
    """The texts at ``places`` [N]. Texts of one length are copied as records of so many bytes, others by Arrow."""
    characters, offsets = characters_of(texts)
    length = common_length(offsets)

    is_plain = 0 < length <= MAX_OFFSET // CHUNK and not pa.types.is_large_string(texts.type)
    largest = min(CHUNK, len(places)) if is_plain else 0
    ends = pa.py_buffer(np.arange(largest + 1, dtype=np.int32) * np.int32(length))

    def part(start: int) -> pa.Array:
        own = places[start : start + CHUNK]
        if not is_plain:
            return texts.take(pa.array(own))
        copied = np.empty(length * len(own), np.uint8)
        record = f"V{length}"
        characters.view(record).take(own, out=copied.view(record), mode="clip")
        return pa.StringArray.from_buffers(len(own), ends, pa.py_buffer(copied))

    with ThreadPoolExecutor(threads) as pool:
        return pa.chunked_array(list(pool.map(part, range(0, len(places), CHUNK))), texts.type)


def constant(text: str, count: int) -> pa.ChunkedArray:
    """``text``, ``count`` times; the chunks share their memory."""
    chunk = pa.repeat(pa.scalar(text, pa.string()), min(count, ROWS_PER_GROUP))
    num_whole, rest = divmod(count, ROWS_PER_GROUP)
    return pa.chunked_array([*[chunk] * num_whole, chunk.slice(0, rest)], pa.string())
