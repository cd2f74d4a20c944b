"""The protocol of a file store in which files appear whole or not at all.

It is implemented by a folder (:mod:`avpref.storage.local_files`) and by a bucket of an object store
(:mod:`avpref.storage.object_files`). Work that exists in the store counts as done, so every stage writes and reads through this
protocol. Names are relative, with ``/`` between parts, and mean the same in every store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol


class Files(Protocol):
    """Named files of one store: a folder or a bucket. Implementations are picklable: workers carry them.

    All methods raise StorageError where the store cannot be reached, read or written. With ``store`` being
    ``LocalFiles(Path("runs"))`` or an ``ObjectFiles`` of an empty bucket:

    >>> units = store.subfolder("tiny-s0/units")
    >>> units.commit_once("score/00000.parquet", b"rows")
    True
    >>> units.commit_once("score/00000.parquet", b"rows of a late attempt")
    False
    >>> units.read("score/00000.parquet")
    b'rows'
    >>> store.replace("tiny-s0/CURRENT", b"version 1")
    >>> store.names()
    ['tiny-s0/CURRENT', 'tiny-s0/units/score/00000.parquet']
    >>> units.exists("score/00001.parquet"), store.folders()
    (False, ['tiny-s0'])
    >>> store.uri("tiny-s0/CURRENT").endswith("/tiny-s0/CURRENT")
    True
    """

    def uri(self, name: str) -> str:
        """The path or URL of ``name``, as messages show it."""
        ...

    def subfolder(self, folder: str) -> Files:
        """The part of the store under ``folder``; names are then relative to that folder."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        ...

    def num_bytes(self, name: str) -> int:
        """Size of a file in bytes. Raises FileNotFoundError."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The file as a seekable stream, which reads only the requested bytes. Raises FileNotFoundError."""
        ...

    def open_all(self, names: Sequence[str]) -> Iterator[BinaryIO]:
        """Many files as by :meth:`open`, in order; each is closed before the next is opened."""
        ...

    def commit_once(self, name: str, data: bytes) -> bool:
        """Create ``name`` unless it exists; returns whether this call created it. The first commit is final."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Create or overwrite ``name`` in one step: for pointers and reports, never for units or tables."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Names of all files under ``folder``, at any depth, sorted; none where there is no such folder."""
        ...

    def children(self, folder: str = "") -> list[str]:
        """Names of the files directly in ``folder``, sorted."""
        ...

    def folders(self) -> list[str]:
        """Names of the folders directly in the store, sorted. On a disk, empty folders are among them."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file, if it exists: only for garbage collection."""
        ...
