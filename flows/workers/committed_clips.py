"""Reading of committed clips into memory, from the run's folder or its bucket."""

from __future__ import annotations

import io
from pathlib import PurePath

from avpref.errors import MediaError
from avpref.storage.files import Files


class ClipBytes(io.BytesIO):
    """A media file in memory. Its ``name`` helps the demuxer to guess the format and is shown in messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def open_clip(media: Files, path: str) -> ClipBytes:
    """The bytes of the clip at ``path``. Raises MediaError where the file is missing."""
    try:
        return ClipBytes(media.read(path), PurePath(path).name)
    except FileNotFoundError as error:
        raise MediaError(f"{path} is missing", "the file that was committed", "avpref runs resume RUN") from error
