"""Opening of a media file, and the errors of files that are cut short or damaged. PyAV only."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from avpref.errors import MediaError


class MediaStream(Protocol):
    """A file that is open for reading at any place."""

    def read(self, size: int = ..., /) -> bytes:
        """The next ``size`` bytes, or fewer at the end."""
        ...

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go to a place; returns it."""
        ...

    def tell(self) -> int:
        """The place."""
        ...


MediaSource = Path | str | MediaStream

Stream = TypeVar("Stream", VideoStream, AudioStream)

DECODER_ERRORS = (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError, ArithmeticError, LookupError)
"""What a decoder, or PyAV around it, raises for a file that it cannot decode; any of them concerns that file alone."""


@contextmanager
def opened(source: MediaSource) -> Iterator[InputContainer]:
    """The open container of ``source``. Raises MediaError for a file that is cut short or cannot be read, also while it is used."""
    name = Path(source).name if isinstance(source, str | Path) else getattr(source, "name", "a clip in memory")
    try:
        if isinstance(source, str | Path):
            with open(source, "rb") as stream:
                _require_all_bytes(stream, name)
        else:
            _require_all_bytes(source, name)
        file = str(source) if isinstance(source, str | Path) else cast("Any", source)
        with av.open(file, "r", metadata_errors="replace") as container:
            yield container
    except DECODER_ERRORS as error:
        problem = (
            error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        )
        raise MediaError(
            found=f"{name}: {problem}",
            expected="a whole, readable media file, such as mp4 with H.264 and AAC",
            fix=f"look at it with `{shlex.join(['ffprobe', str(name)])}`; copy or make the file again, or remove its row",
        ) from error


def _require_all_bytes(stream: MediaStream, name: str) -> None:
    """Raises MediaError for an mp4 with a top-level box longer than the file. Other containers are checked by duration."""
    position, size = 0, stream.seek(0, 2)
    while position + 8 <= size:
        stream.seek(position)
        header = stream.read(16)
        kind, length = header[4:8], int.from_bytes(header[:4], "big")
        if position == 0 and kind != b"ftyp":
            break
        length = int.from_bytes(header[8:16], "big") if length == 1 else length or size - position
        if kind in (b"mdat", b"moov", b"moof") and position + length > size:
            raise ends_early(name, f"{size} bytes", f"{position + length} bytes, as its header says")
        position += max(length, 8)
    stream.seek(0)


RANDOM_INDEX_KEY = bytes.fromhex("060e2b34020501010d01020101110100")
"""Key of the last item of a whole MXF (SMPTE ST 377-1), which ends with its own length in 4 bytes."""


def has_places(container: InputContainer) -> bool:
    """Whether a seek in ``container`` leads to a known time.

    In an MXF that is cut short, or that is not a file, FFmpeg estimates times from the number of bytes.
    """
    if not container.format.name.startswith("mxf"):
        return True
    path = Path(container.name or "")
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 4))
        length = int.from_bytes(stream.read(4), "big")
        stream.seek(max(0, size - length))
        return 0 < length <= size and stream.read(16) == RANDOM_INDEX_KEY


def ends_early(name: str, found: str, expected: str) -> MediaError:
    """The error of a file that ends before its header says, or that is damaged."""
    return MediaError(
        found=f"{Path(name).name or 'a clip in memory'} is cut short or damaged: {found}",
        expected=expected,
        fix="copy or make the file again, or remove its row",
    )


def decodable(container: InputContainer, streams: list[Stream]) -> list[Stream]:
    """The ``streams`` that have a decoder. Raises MediaError if there are streams but none has one."""
    usable = [stream for stream in streams if stream.codec_context is not None]
    if streams and not usable:
        raise MediaError(
            found=f"{container.name}: {streams[0].type} in an unknown or damaged format",
            expected="a format that FFmpeg decodes, such as H.264 and AAC",
            fix="copy or make the file again, or remove its row",
        )
    return usable
