"""Shards: safetensors files with the arrays of a few samples, one after the other, so that a sample is one range of bytes.

The format is that of the safetensors specification: eight bytes with the length of a JSON header (little-endian), the header, the
data. Arrays of a sample are neighbours in the file, which the library does not promise, and their positions are known when the file
is written, so that a reader needs no header.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from avpref.datasets.latents import LatentArray

ALIGNMENT = 8
"""The header is padded with spaces to a multiple of this number of bytes."""

BITS_OF: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "BF16": np.dtype("<u2")}
"""NumPy type of the stored bits by name of the safetensors type; NumPy has no bfloat16, whose bits are kept as integers."""


@dataclass(frozen=True)
class StoredRange:
    """Place of an array in its shard: offset and length in bytes, CRC-32 of these bytes, type and shape."""

    offset: int
    num_bytes: int
    crc32: int
    dtype: str
    shape: tuple[int, ...]


def shard_of(
    samples: Iterable[tuple[str, Mapping[str, LatentArray]]],
) -> tuple[bytes, dict[tuple[str, str], StoredRange]]:
    """The bytes of a shard with the arrays of ``samples`` (id, arrays by part), and the place of each array by (id, part).

    Equal samples in equal order give equal bytes. Tensors are named ``ID/PART``.
    """
    pieces: list[bytes] = []
    header: dict[str, object] = {}
    places: dict[tuple[str, str], StoredRange] = {}
    position = 0
    for sample_id, parts in samples:
        for part, array in parts.items():
            data = array.bits.tobytes()
            end = position + len(data)
            header[f"{sample_id}/{part}"] = {
                "dtype": array.dtype,
                "shape": list(array.shape),
                "data_offsets": [position, end],
            }
            places[sample_id, part] = StoredRange(position, len(data), zlib.crc32(data), array.dtype, array.shape)
            pieces.append(data)
            position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    start = 8 + len(text)
    moved = {
        key: StoredRange(start + place.offset, place.num_bytes, place.crc32, place.dtype, place.shape)
        for key, place in places.items()
    }
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces]), moved


def as_float32(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The values of stored ``bits`` as float32, a copy; exact for every stored type."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.float32)
