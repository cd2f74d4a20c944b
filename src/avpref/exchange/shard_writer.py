"""Parquet shards with clips in them, written in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets.foreign_pairs.pair_layout import SHARD_FOLDER, SPLIT
from avpref.identity import file_sha256

GROUP_BYTES = 32 << 20
"""Bytes of clips in a row group, which is what a reader holds in memory; one pair more where it exceeds them."""
GROUP_ROWS = 1024
SHARD_BYTES = 400 << 20
"""Bytes of clips after which the next shard begins."""


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export: name relative to its folder, number of pairs, bytes and SHA-256."""

    name: str
    rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardLimits:
    """The sizes at which a row group and a shard end."""

    group_bytes: int = GROUP_BYTES
    group_rows: int = GROUP_ROWS
    shard_bytes: int = SHARD_BYTES


DEFAULT_LIMITS = ShardLimits()


class ShardWriter:
    """Writes row groups into ``data/train-*.parquet`` of ``folder``. ``blobs`` are the columns of clips, which are not compressed."""

    def __init__(self, folder: Path, schema: pa.Schema, blobs: Sequence[str], limits: ShardLimits) -> None:
        self._folder, self._schema, self._limits = folder / SHARD_FOLDER, schema, limits
        self._blobs = tuple(blobs)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._parts: list[tuple[Path, int]] = []
        self._writer: pq.ParquetWriter | None = None
        self._num_bytes = 0

    def write(self, group: pa.Table, num_bytes: int) -> None:
        """Write one row group whose clips have ``num_bytes`` bytes."""
        if self._writer is None or self._num_bytes >= self._limits.shard_bytes:
            self._open()
        assert self._writer is not None
        self._writer.write_table(group.cast(self._schema), row_group_size=max(1, group.num_rows))
        path, rows = self._parts[-1]
        self._parts[-1] = path, rows + group.num_rows
        self._num_bytes += num_bytes

    def close(self) -> list[ExportedFile]:
        """Finish the last shard, give all their names, which hold their number, and return them."""
        if self._writer is not None:
            self._writer.close()
        files = []
        for number, (path, rows) in enumerate(self._parts):
            final = self._folder / f"{SPLIT}-{number:05d}-of-{len(self._parts):05d}.parquet"
            path.rename(final)
            name = f"{SHARD_FOLDER}/{final.name}"
            files.append(ExportedFile(name, rows, final.stat().st_size, file_sha256(final)))
        return files

    def _open(self) -> None:
        if self._writer is not None:
            self._writer.close()
        path = self._folder / f"{len(self._parts):05d}.part"
        self._parts.append((path, 0))
        self._num_bytes = 0
        compression = {leaf: "none" if leaf.split(".")[0] in self._blobs else "zstd" for leaf in leaves(self._schema)}
        texts = [leaf for leaf in compression if compression[leaf] == "zstd"]
        self._writer = pq.ParquetWriter(
            path, self._schema, compression=compression, use_dictionary=texts, write_statistics=texts
        )


def leaves(fields: Iterable[pa.Field], prefix: str = "") -> list[str]:
    """Dotted names of the columns of a schema, inside structs too."""
    names: list[str] = []
    for field in fields:
        name = f"{prefix}{field.name}"
        if pa.types.is_struct(field.type):
            names += leaves(list(field.type), f"{name}.")
        else:
            names.append(name)
    return names
