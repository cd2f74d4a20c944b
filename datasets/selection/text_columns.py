"""Columns of texts that threads read in pieces or make in blocks."""

from __future__ import annotations

from threading import Lock

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.datasets.selection.text_hashes import characters_of, common_length
from avpref.datasets.tables import ROWS_PER_GROUP

MAX_OFFSET = 2**31 - 1


class Texts:
    """Texts that are copied to new places: those of one length as records of so many bytes, others by Arrow."""

    def __init__(self, texts: pa.Array) -> None:
        self._texts = texts
        characters, offsets = characters_of(texts)
        length = 0 if texts.null_count or pa.types.is_large_string(texts.type) else common_length(offsets)
        self._length = length
        self._records = characters.view(f"V{length}") if length else None

    def take(self, places: NDArray[np.integer]) -> pa.Array:
        """The texts at ``places`` [N]."""
        if self._records is None or self._length * len(places) > MAX_OFFSET:
            return self._texts.take(pa.array(places))
        copied = np.empty(self._length * len(places), np.uint8)
        self._records.take(places, out=copied.view(self._records.dtype), mode="clip")
        ends = np.arange(len(places) + 1, dtype=np.int32) * np.int32(self._length)
        return pa.StringArray.from_buffers(len(places), pa.py_buffer(ends), pa.py_buffer(copied))


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
