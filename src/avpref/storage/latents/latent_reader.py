"""Reads stored arrays by memory map: one sample's range is mapped, checked, converted and unmapped, so memory stays bounded.

The index is kept as columns of numbers; 25,000 pairs take some tens of megabytes. No shard is opened before one of its samples is
used, except that its size is compared with the index once.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from avpref.datasets.latents import shape_from
from avpref.errors import InputError
from avpref.storage.latents.shards import BITS_OF, as_float32

AGAIN = "delete the training's folder in models/ and run: avpref runs resume RUN, which encodes what is missing"
COLUMNS = ("offset", "num_bytes", "crc32", "num_frames", "height_px", "width_px")


@dataclass(frozen=True)
class ClipSize:
    """Frames and pixels of a clip."""

    num_frames: int
    height_px: int
    width_px: int


class LatentReader:
    """The arrays that an index (a table ``latents``) names, in the shards under ``root``."""

    def __init__(self, index: pa.Table, root: Path) -> None:
        self._root = root
        self._numbers = {name: index[name].to_numpy() for name in COLUMNS}
        self._codes: dict[str, np.ndarray] = {}
        self._values: dict[str, list[str]] = {}
        for name in ("latents_path", "dtype", "shape"):
            encoded = index[name].combine_chunks().dictionary_encode()
            self._codes[name] = encoded.indices.to_numpy()
            self._values[name] = encoded.dictionary.to_pylist()
        keys = zip(index["sample_id"].to_pylist(), index["part"].to_pylist(), strict=True)
        self._rows = {key: row for row, key in enumerate(keys)}

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._rows

    def shape(self, sample_id: str, part: str) -> tuple[int, ...]:
        """Shape of one array. Raises InputError where the index has none."""
        return shape_from(self._text(self._row(sample_id, part), "shape"))

    def size(self, sample_id: str, part: str) -> ClipSize:
        """Frames and pixels of the clip that an array was encoded from."""
        row = self._row(sample_id, part)
        return ClipSize(*(int(self._numbers[name][row]) for name in COLUMNS[3:]))

    def read(self, sample_id: str, part: str) -> np.ndarray:
        """One array as float32. Raises InputError for a shard that is absent or cut, or bytes other than those that were written."""
        row = self._row(sample_id, part)
        path = self._root / self._text(row, "latents_path")
        offset, num_bytes, crc32 = (int(self._numbers[name][row]) for name in COLUMNS[:3])
        dtype, shape = self._text(row, "dtype"), shape_from(self._text(row, "shape"))
        if not num_bytes:
            return np.zeros(shape, np.float32)
        start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        try:
            with (
                path.open("rb") as stream,
                mmap.mmap(stream.fileno(), offset + num_bytes - start, offset=start, access=mmap.ACCESS_READ) as mapped,
            ):
                with memoryview(mapped)[offset - start :] as data:
                    if zlib.crc32(data) != crc32:
                        raise InputError(
                            f"{path}: {part} of {sample_id} was changed", "the bytes that were encoded", AGAIN
                        )
                bits = np.frombuffer(mapped, BITS_OF[dtype], num_bytes // BITS_OF[dtype].itemsize, offset - start)
                values = as_float32(bits, dtype).reshape(shape)
                del bits
        except (OSError, ValueError) as error:
            found = f"{path}: {part} of {sample_id} cannot be read: {error}"
            raise InputError(found, "the shard that was committed", AGAIN) from error
        return values

    def require_shards(self) -> None:
        """Raises InputError that names the first shard of the index that is absent or shorter than the index says."""
        codes = self._codes["latents_path"]
        ends = np.zeros(len(self._values["latents_path"]), np.int64)
        np.maximum.at(ends, codes, self._numbers["offset"] + self._numbers["num_bytes"])
        for name, end in zip(self._values["latents_path"], ends.tolist(), strict=True):
            path = self._root / name
            size = path.stat().st_size if path.is_file() else None
            if size is None or size < end:
                found = f"{path} is absent" if size is None else f"{path} has {size} bytes"
                raise InputError(found, f"a shard of at least {end} bytes", AGAIN)

    def require(self, keys: Iterable[tuple[str, str]]) -> None:
        """Raises InputError that names the first of ``keys`` (sample, part) that the index lacks."""
        for sample_id, part in keys:
            self._row(sample_id, part)

    def _row(self, sample_id: str, part: str) -> int:
        row = self._rows.get((sample_id, part))
        if row is None:
            raise InputError(f"no {part} of {sample_id} in the index of latents", "an array of every sample", AGAIN)
        return row

    def _text(self, row: int, column: str) -> str:
        return self._values[column][self._codes[column][row]]
