"""Reading of committed clips by range, from the run's folder or its bucket."""

from __future__ import annotations

import hashlib
import io
from pathlib import PurePath
from typing import BinaryIO

from avpref.errors import MediaError
from avpref.storage.files import Files

PIECE_BYTES = 1 << 20


class CommittedClip(io.BufferedIOBase):
    """A media file as a stream that reads what is asked for. Its ``name`` helps the demuxer to guess the format, and is shown."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self.name = stream, name

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """See :class:`io.BufferedIOBase`."""
        return self._stream.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """See :class:`io.BufferedIOBase`."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """See :class:`io.BufferedIOBase`."""
        return self._stream.tell()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        position = self.tell()
        size = self.seek(0, io.SEEK_END)
        self.seek(position)
        return size

    def sha256(self) -> str:
        """SHA-256 of the file, 64 hex characters, read in pieces. The stream is at its start afterwards."""
        self.seek(0)
        hashed = hashlib.sha256()
        while piece := self.read(PIECE_BYTES):
            hashed.update(piece)
        self.seek(0)
        return hashed.hexdigest()


def open_clip(media: Files, path: str) -> CommittedClip:
    """The clip at ``path``; close it after use. Raises MediaError where the file is missing."""
    try:
        return CommittedClip(media.open(path), PurePath(path).name)
    except FileNotFoundError as error:
        raise MediaError(f"{path} is missing", "the file that was committed", "avpref runs resume RUN") from error
