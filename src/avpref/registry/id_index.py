"""Looks up candidates of a sealed file by id or by their clip's hash, without reading the file.

Ids are hashes, so the smallest and largest id of a row group exclude nothing, and a lookup would read every id of every run.
The index of a file of table ``candidates`` is three rows of 64-bit numbers: the ids in order, the clips' hashes in order (their
first 16 digits), and the id of each hash. It is derived from the file and named by it, made where it is absent, and mapped into
memory; benchmarks/lineage.md has the times with and without it.
"""

from __future__ import annotations

import bisect
import mmap
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from avpref.datasets.query_texts import sql
from avpref.errors import StorageError, TableError
from avpref.storage.local_files import commit_once

FOLDER = "index"
ID_LETTER = "c"
DIGITS = 16
NUM_COLUMNS = 3
BYTES = 8


@dataclass(frozen=True)
class IdIndex:
    """The index of one file of table ``candidates``; ``path`` need not exist yet."""

    path: Path
    file: Path

    def ids(self, con: duckdb.DuckDBPyConnection, beginning: str) -> list[str]:
        """Ids in the file that begin with ``beginning`` (the letter, then hex digits)."""
        digits = beginning.removeprefix(ID_LETTER)
        if not beginning.startswith(ID_LETTER) or not _is_hex(digits) or len(digits) > DIGITS:
            return []
        with self._columns(con) as (ids, _, _):
            return [ID_LETTER + f"{ids[index]:016x}" for index in _range(ids, digits)]

    def ids_of_clips(self, con: duckdb.DuckDBPyConnection, beginning: str) -> list[str]:
        """Ids of the candidates whose clip's SHA-256 begins with ``beginning``, of which the first 16 digits are compared."""
        if not _is_hex(beginning):
            return []
        with self._columns(con) as (_, hashes, owners):
            return [ID_LETTER + f"{owners[index]:016x}" for index in _range(hashes, beginning[:DIGITS])]

    @contextmanager
    def _columns(self, con: duckdb.DuckDBPyConnection) -> Iterator[tuple[Sequence[int], ...]]:
        if not self.path.exists():
            yield self.make(con)
            return
        with open(self.path, "rb") as stream:
            if self.path.stat().st_size == 0:
                yield ((),) * NUM_COLUMNS
                return
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as whole:
                size = len(whole) // NUM_COLUMNS
                parts = [whole[start : start + size] for start in range(0, NUM_COLUMNS * size, size)]
                columns = [part.cast("Q") for part in parts]
                try:
                    yield tuple(columns)
                finally:
                    for view in (*columns, *parts):
                        view.release()

    def make(self, con: duckdb.DuckDBPyConnection) -> tuple[Sequence[int], ...]:
        """Read the file once and write the index into the run's folder; where that is not writable, no index is kept.

        Raises TableError for ids or hashes of another form.
        """
        rows = con.execute(sql("id_columns"), {"file": str(self.file)}).fetchall()
        try:
            numbers = [(int(name[1:], 16), int(sha256[:DIGITS], 16)) for name, sha256 in rows]
        except ValueError as error:
            raise TableError(f"{self.file}: {error}", "candidates made by this product") from error
        by_hash = sorted((sha256, name) for name, sha256 in numbers)
        columns = (
            array("Q", sorted(name for name, _ in numbers)),
            array("Q", [sha256 for sha256, _ in by_hash]),
            array("Q", [name for _, name in by_hash]),
        )
        with suppress(StorageError):  # a folder of another user
            commit_once(self.path, b"".join(column.tobytes() for column in columns))
        return columns


def index_of(root: Path, file: Path) -> IdIndex:
    """The index of ``file``, which is part of table ``candidates`` of the run at ``root``."""
    return IdIndex(root / FOLDER / f"{file.stem}.{sys.byteorder}", file)


def _is_hex(text: str) -> bool:
    return bool(text) and all(character in "0123456789abcdef" for character in text)


def _range(keys: Sequence[int], beginning: str) -> range:
    low, high = int(beginning.ljust(DIGITS, "0"), 16), int(beginning.ljust(DIGITS, "f"), 16)
    return range(bisect.bisect_left(keys, low), bisect.bisect_right(keys, high))
