"""The bytes of a clip of a foreign pair: a whole file, or a value in a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets.metric_tables import SIDES
from avpref.errors import MediaError

WHOLE_FILE = -1
"""Row of a clip that is a file by itself."""
ROWS_AT_ONCE = 8
GONE = "import the pairs again from a folder that still has it"


@dataclass(frozen=True)
class ClipPlace:
    """Where a clip is: ``file`` relative to the folder of the pairs, or absolute; ``row`` of a Parquet file, and the pair's side."""

    file: str
    row: int = WHOLE_FILE
    side: str = ""


@dataclass(frozen=True)
class _Batch:
    """Consecutive rows of a Parquet file, from ``first`` on."""

    first: int
    rows: pa.Table

    def holds(self, row: int) -> bool:
        return self.first <= row < self.first + self.rows.num_rows


class ClipReader:
    """Reads clips of the pairs in ``folder``. Clips of a Parquet file that are read in order are decoded once, a few rows at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = ""
        self._batch = _Batch(0, pa.table({}))
        self._batches: Iterator[_Batch] = iter(())

    def read(self, place: ClipPlace) -> bytes:
        """The clip's bytes. Raises MediaError where the file, the row or the value is absent."""
        path = self.folder / place.file
        try:
            if place.row == WHOLE_FILE:
                return path.read_bytes()
            return self._value(path, place)
        except (OSError, pa.ArrowException) as error:
            raise MediaError(f"{place.file} cannot be read: {error}", "the clip that was listed", GONE) from error

    def _value(self, path: Path, place: ClipPlace) -> bytes:
        if self._file != place.file or not self._batch.holds(place.row):
            self._go_to(path, place)
        value = self._batch.rows[place.side][place.row - self._batch.first].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if not data:
            raise MediaError(f"row {place.row} of {place.file} has no {place.side} clip", "the bytes of a clip", GONE)
        return bytes(data)

    def _go_to(self, path: Path, place: ClipPlace) -> None:
        """Make the batch with the row of ``place`` the current one."""
        is_behind = self._file != place.file or place.row < self._batch.first
        if is_behind or place.row >= self._batch.first + 4 * ROWS_AT_ONCE:
            self._file, self._batches = place.file, _batches_from(path, place.row)
        for batch in self._batches:
            if batch.holds(place.row):
                self._batch = batch
                return
        self._file = ""
        raise MediaError(f"{place.file} has no row {place.row}", "the clip that was listed", GONE)


def _batches_from(path: Path, row: int) -> Iterator[_Batch]:
    """The clips of a Parquet file from the row group on that holds ``row``."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        metadata = file.metadata
        starts = [0, *accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))]
        groups = [group for group in range(metadata.num_row_groups) if starts[group + 1] > row]
        first = starts[groups[0]] if groups else 0
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=list(SIDES)):
            yield _Batch(first, pa.Table.from_batches([batch]))
            first += batch.num_rows


def is_clip_column(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold clips: bytes, or bytes and a path as ``datasets`` stores them."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
