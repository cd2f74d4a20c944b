"""Positions of ids among many: a guess that they follow each other, and otherwise a search in sorted hashes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

WORD_BYTES = 8
CHUNK = 1 << 16
FACTOR, SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


class IdLookup:
    """Finds ids in ``ids``. Build once; :meth:`find` may be called from several threads."""

    def __init__(self, ids: pa.Array) -> None:
        self._ids = ids
        hashes = hashes_of(ids)
        self._order = np.argsort(hashes)
        self._sorted = hashes[self._order]
        self._is_ambiguous = bool((self._sorted[1:] == self._sorted[:-1]).any())

    @property
    def num_doubled(self) -> int:
        """Number of ids that another position has too."""
        return len(self._ids) - pc.count_distinct(self._ids).as_py() if self._is_ambiguous else 0

    def find(self, texts: pa.Array, hint: int) -> Ints:
        """The position of each of ``texts``, −1 for one that is not there. Fast where they follow each other from ``hint`` on."""
        if texts.type != self._ids.type:
            texts = texts.cast(self._ids.type)
        if self._follow(texts, hint):
            return np.arange(hint, hint + len(texts))
        first = self._first(texts)
        if self._follow(texts, first):
            return np.arange(first, first + len(texts))
        if self._is_ambiguous:
            return pc.fill_null(pc.index_in(texts, value_set=self._ids), -1).to_numpy().astype(np.int64)
        return self._search(texts)

    def _follow(self, texts: pa.Array, first: int) -> bool:
        """Whether ``texts`` are the ids from position ``first`` on."""
        return first >= 0 and texts.equals(self._ids.slice(first, len(texts)))

    def _first(self, texts: pa.Array) -> int:
        return int(self._search(texts.slice(0, 1))[0]) if len(texts) and not self._is_ambiguous else -1

    def _search(self, texts: pa.Array) -> Ints:
        if not len(self._ids):
            return np.full(len(texts), -1, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, hashes_of(texts)), len(self._sorted) - 1)
        positions = self._order[place]
        is_equal = pc.equal(self._ids.take(pa.array(positions)), texts).to_numpy(zero_copy_only=False)
        return np.where(is_equal, positions, -1)


def hashes_of(texts: pa.Array) -> Words:
    """A 64-bit hash of every text [N]; equal texts have equal hashes."""
    parts = [_hashes(texts.slice(start, CHUNK)) for start in range(0, len(texts), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def _hashes(texts: pa.Array) -> Words:
    words, lengths = words_of(texts)
    mixed = lengths.astype(np.uint64)
    is_equal = (lengths == lengths[:1]).all()
    for number, column in enumerate(words.T):
        following = (mixed ^ column) * FACTOR
        following ^= following >> SHIFT
        # words beyond a text's end are padding, whose number depends on the texts beside it
        mixed = following if is_equal else np.where(lengths > number * WORD_BYTES, following, mixed)
    return mixed


def words_of(texts: pa.Array) -> tuple[Words, Ints]:
    """Texts as big-endian words [N, W], padded with zeros, and their lengths in bytes [N]."""
    _, offset_buffer, data = texts.buffers()
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    offsets = np.frombuffer(offset_buffer, kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=0))
    characters = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    padded = np.zeros((len(texts), max(1, -(-longest // WORD_BYTES)) * WORD_BYTES), np.uint8)
    if longest and (lengths == longest).all():
        padded[:, :longest] = characters[offsets[0] : offsets[-1]].reshape(len(texts), longest)
    elif longest:
        is_inside = np.arange(longest) < lengths[:, None]
        padded[:, :longest][is_inside] = characters[offsets[0] : offsets[-1]]
    return padded.view(">u8").astype(np.uint64), lengths
