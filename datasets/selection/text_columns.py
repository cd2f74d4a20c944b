"""Columns of texts that threads read in pieces or make in chunks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

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


class RowTexts:
    """The texts of ``count`` rows. :meth:`put` every row once, from any thread; then :meth:`array`.

    Texts as long as the first ones that all have one length go into one buffer, so that what was read can be freed. Others are kept.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = Lock()
        self._length = 0
        self._characters = np.zeros(0, np.uint8)
        self._others: list[tuple[int, pa.Array]] = []

    def put(self, first: int, texts: pa.Array) -> None:
        """``texts`` of the rows from ``first`` on."""
        characters, offsets = characters_of(texts)
        length = 0 if texts.null_count else common_length(offsets)
        with self._lock:
            if length and not self._length:
                self._length, self._characters = length, np.empty(length * self._count, np.uint8)
            if not length or length != self._length:
                self._others.append((first, texts))
                return
        self._characters[first * length : first * length + len(characters)] = characters

    def array(self) -> pa.Array:
        """All texts; with offsets of 64 bits where those of 32 do not suffice."""
        chunks, row = [], 0
        for first, texts in [
            *sorted(self._others, key=lambda other: other[0]),
            (self._count, pa.array([], pa.string())),
        ]:
            chunks += [self._copied(row, first)] if row < first else []
            chunks += [texts] if len(texts) else []
            row = first + len(texts)
        return chunks[0] if len(chunks) == 1 else combined(pa.chunked_array(chunks, pa.string()))

    def _copied(self, first: int, end: int) -> pa.Array:
        """The rows from ``first`` to ``end``, which are in the buffer."""
        length, count = self._length, end - first
        is_long = length * count > MAX_OFFSET
        ends: NDArray[np.integer] = np.arange(count + 1, dtype=np.int64 if is_long else np.int32)
        ends *= length
        characters = self._characters[first * length : end * length]
        kind = pa.LargeStringArray if is_long else pa.StringArray
        return kind.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(characters))


def combined(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array; with offsets of 64 bits where those of 32 do not suffice."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        return pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in whole.chunks])
    return whole
