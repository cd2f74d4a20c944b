"""Places where files appear whole or not at all: a folder, or (avpref.storage.object_files) a bucket of an object store.

What a run counts as done is what its place holds, so every stage writes and reads through this protocol. Names are
relative, with ``/`` between parts, and mean the same in every place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from avpref.storage import local_files as store
from avpref.storage.local_files import storage_errors


class Files(Protocol):
    """Named files of one place. Implementations are picklable: workers carry them.

    All verbs raise StorageError where the place cannot be reached, read or written.
    """

    def at(self, name: str) -> str:
        """Where ``name`` is, as a message shows it: a path or an URL."""
        ...

    def within(self, folder: str) -> Files:
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


@dataclass(frozen=True)
class LocalFiles:
    """The files under ``root``, a folder of this machine or of a shared disk. See :mod:`avpref.storage.local_files` for the rule."""

    root: Path

    def at(self, name: str) -> str:
        """See :class:`Files`."""
        return str(self.path(name))

    def path(self, name: str) -> Path:
        """Where the file is, for libraries that open paths themselves."""
        return self.root / name

    def within(self, folder: str) -> LocalFiles:
        """See :class:`Files`."""
        return LocalFiles(self.root / folder)

    def exists(self, name: str) -> bool:
        """See :class:`Files`."""
        return self.path(name).is_file()

    def num_bytes(self, name: str) -> int:
        """See :class:`Files`."""
        return self.path(name).stat().st_size

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        return self.path(name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """See :class:`Files`."""
        return self.path(name).open("rb")

    def open_all(self, names: Sequence[str]) -> Iterator[BinaryIO]:
        """See :class:`Files`."""
        for name in names:
            with self.open(name) as stream:
                yield stream

    def commit_once(self, name: str, data: bytes) -> bool:
        """See :class:`Files`."""
        return store.commit_once(self.path(name), data)

    def replace(self, name: str, data: bytes) -> None:
        """See :class:`Files`."""
        store.replace(self.path(name), data)

    def names(self, folder: str = "") -> list[str]:
        """See :class:`Files`."""
        return sorted(self._relative(path) for path in self._files(self.path(folder).rglob("*")))

    def children(self, folder: str = "") -> list[str]:
        """See :class:`Files`."""
        return sorted(self._relative(path) for path in self._files(self.path(folder).glob("*")))

    def folders(self) -> list[str]:
        """See :class:`Files`."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir()) if self.root.is_dir() else []

    def delete(self, name: str) -> None:
        """See :class:`Files`."""
        with storage_errors(self.path(name)):
            self.path(name).unlink(missing_ok=True)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _files(self, found: Iterator[Path]) -> Iterator[Path]:
        return (path for path in found if path.is_file() and not path.name.startswith(store.TEMPORARY_PREFIX))
