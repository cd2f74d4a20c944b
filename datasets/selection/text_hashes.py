"""64-bit words and hashes of many texts at once, read from the memory of Arrow arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Offsets = NDArray[np.signedinteger]
Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

WORD_BYTES = 8
CHUNK = 1 << 14
"""Texts that are hashed at once: few enough for a processor's cache."""
FACTOR, SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


def hashes_of(texts: pa.Array) -> Words:
    """A 64-bit hash of every text [N]; equal texts have equal hashes.

    The words of a text follow each other in steps of eight bytes; the last one ends with the text, so it repeats bytes of the word
    before where the length is no multiple of eight. A text of less than eight bytes is one word, padded with zeros.
    """
    hashes = np.empty(len(texts), np.uint64)
    for start in range(0, len(texts), CHUNK):
        _fill(hashes[start : start + CHUNK], *characters_of(texts.slice(start, CHUNK)))
    return hashes


def equal_length_words(texts: pa.Array) -> list[NDArray[np.unsignedinteger]] | None:
    """The words of ``texts`` as big-endian columns [N], whose order is that of the texts.

    None unless all texts have the same length, of at least eight bytes. The columns are views of the texts.
    """
    characters, offsets = characters_of(texts)
    length = common_length(offsets)
    return None if length < WORD_BYTES else list(_columns(characters, length, len(texts), ">u8"))


def _fill(hashes: Words, characters: Bytes, offsets: Offsets) -> None:
    length = common_length(offsets)
    if length >= WORD_BYTES:
        hashes[:] = np.uint64(length)
        for column in _columns(characters, length, len(hashes), "<u8"):
            _mix(hashes, column)
        return
    lengths = np.diff(offsets)
    hashes[:] = lengths
    padded = np.append(characters, np.zeros(WORD_BYTES, np.uint8))
    words = np.ndarray((len(padded) - WORD_BYTES + 1,), "<u8", padded, strides=(1,))
    is_short, last = lengths < WORD_BYTES, np.maximum(lengths - WORD_BYTES, 0)
    for position in range(0, int(lengths.max(initial=0)), WORD_BYTES):
        word = words[offsets[:-1] + np.minimum(position, last)]
        beyond = (np.maximum(WORD_BYTES - lengths, 0) * 8 % 64).astype(np.uint64)
        word = np.where(is_short, word << beyond >> beyond, word)
        mixed = hashes.copy()
        _mix(mixed, word)
        np.copyto(hashes, mixed, where=lengths > position)


def _mix(hashes: Words, words: NDArray[np.unsignedinteger]) -> None:
    np.bitwise_xor(hashes, words, out=hashes)
    np.multiply(hashes, FACTOR, out=hashes)
    np.bitwise_xor(hashes, hashes >> SHIFT, out=hashes)


def _columns(characters: Bytes, length: int, count: int, kind: str) -> Iterator[NDArray[np.unsignedinteger]]:
    for position in range(0, length, WORD_BYTES):
        first = min(position, length - WORD_BYTES)
        yield np.ndarray((count,), kind, characters, offset=first, strides=(length,))


def common_length(offsets: Offsets) -> int:
    """The length of all texts; 0 where they differ or there is none."""
    if len(offsets) < 2:
        return 0
    length = int(offsets[1] - offsets[0])
    for start in range(0, len(offsets) - 1, CHUNK):
        own = offsets[start : start + CHUNK + 1]
        if (own[1:] - own[:-1] != length).any():
            return 0
    return length


def characters_of(texts: pa.Array) -> tuple[Bytes, Offsets]:
    """The bytes of ``texts``, and where each begins and the last ends [N + 1], counted from the first; views where possible."""
    _, offset_buffer, data = texts.buffers()
    kind: type[np.signedinteger] = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    offsets = np.frombuffer(offset_buffer, kind)[texts.offset : texts.offset + len(texts) + 1]
    if not len(texts) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    characters = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    return characters, offsets - offsets[:1] if offsets[0] else offsets
