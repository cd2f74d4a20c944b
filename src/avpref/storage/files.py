"""The protocol of a file store in which files appear whole or not at all.

It is implemented by a folder (:mod:`avpref.storage.local_files`) and by a bucket of an object store
(:mod:`avpref.storage.object_files`). Work that exists in the store counts as done, so every stage writes and reads through this
protocol. Names are relative, with ``/`` between parts, and mean the same in every store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol


class Files(Protocol):
    """Named files of one place. Implementations are picklable: workers carry them.

    All verbs raise StorageError where the place cannot be reached, read or written.
    """

    def uri(self, name: str) -> str:
        """Where ``name`` is, as a message shows it: a path or an URL."""
        ...

    def subfolder(self, folder: str) -> Files:
        """The part of the place under ``folder``."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        ...

    def num_bytes(self, name: str) -> int:
        """Size of a file. Raises FileNotFoundError."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The file as a stream that can be positioned; only what is asked for is read. Raises FileNotFoundError."""
        ...

    def open_all(self, names: Sequence[str]) -> Iterator[BinaryIO]:
        """Many files as by :meth:`open`, in order; each is closed when the next is asked for."""
        ...

    def commit_once(self, name: str, data: bytes) -> bool:
        """Create ``name`` if it does not exist; returns whether this call did. The first commit wins, for ever."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write ``name`` over whatever stood there, in one step: for pointers and reports, never for units or tables."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Names of all files under ``folder``, at any depth, sorted; none where there is no such folder."""
        ...

    def children(self, folder: str = "") -> list[str]:
        """Names of the files directly in ``folder``, sorted."""
        ...

    def folders(self) -> list[str]:
        """Names of the folders directly in this place, sorted; on a disk there may be empty ones among them."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file: for garbage collection alone. Nothing happens where there is none."""
        ...
