"""Committed clips as workers read them: whole, in memory, from wherever the run keeps its files."""

from __future__ import annotations

import io
from pathlib import PurePath

from avpref.errors import MediaError
from avpref.storage.files import Files


class ClipBytes(io.BytesIO):
    """A media file in memory that knows its name, for the demuxer's guess and for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def open_clip(media: Files, path: str) -> ClipBytes:
    """The clip at ``path``. Raises MediaError where it is gone."""
    try:
        return ClipBytes(media.read(path), PurePath(path).name)
    except FileNotFoundError as error:
        raise MediaError(f"{path} is missing", "the file that was committed", "avpref runs resume RUN") from error
