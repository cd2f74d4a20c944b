"""Commands of ffmpeg that correct a file, for the fixes of errors: the container of the copy is one that holds the file's codecs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from av.container import Container
from av.stream import Disposition

MP4 = frozenset({"h264", "hevc", "av1", "mpeg4", "aac", "mp3", "ac3", "eac3", "alac"})
WEBM = frozenset({"vp8", "vp9", "av1", "opus", "vorbis"})
CONTAINERS = ((".mp4", MP4), (".webm", WEBM))
"""Containers and codecs that can be copied into them; all others are copied into Matroska."""


def copy_suffix(codecs: Sequence[str]) -> str:
    """Suffix of a container that holds streams of ``codecs`` (FFmpeg's names) as they are."""
    return next((suffix for suffix, known in CONTAINERS if known.issuperset(codecs)), ".mkv")


def remux_command(container: Container) -> str:
    """The command that copies pictures and sound into a new container.

    Timestamps that the file lacks (program streams and AVI keep few) are made, because the copy needs them.
    """
    words = ["ffmpeg", "-fflags", "+genpts", "-i", _name(container), *_maps(container), "-c", "copy"]
    return shlex.join([*words, _copy_name(container, copy_suffix(_codecs(container)))])


EVEN_SIZE = "crop=trunc(iw/2)*2:trunc(ih/2)*2"
"""Filter of ffmpeg for the even sizes that H.264 needs."""


def transcode_command(container: Container, picture_filter: str = "") -> str:
    """The command that encodes pictures and sound again, as H.264 and AAC in mp4, after ``picture_filter`` of ffmpeg."""
    filters = ["-vf", ",".join(part for part in (picture_filter, EVEN_SIZE) if part)] if container.streams.video else []
    codecs = [*filters, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    return shlex.join(["ffmpeg", "-i", _name(container), *_maps(container), *codecs, _copy_name(container, ".mp4")])


def _name(container: Container) -> str:
    return container.name or "clip"


def _copy_name(container: Container, suffix: str) -> str:
    path = Path(_name(container))
    return str(path.with_name(f"{path.stem}-fixed{suffix}"))


def _maps(container: Container) -> list[str]:
    """All pictures but cover art, and all sound: subtitles and data do not fit into every container."""
    has_video = any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video)
    return [*(["-map", "0:V"] if has_video else []), *(["-map", "0:a"] if container.streams.audio else [])]


def _codecs(container: Container) -> list[str]:
    """Codecs of the streams that are copied; one without decoder is unknown and fits into Matroska at best."""
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    contexts = [stream.codec_context for stream in (*videos, *container.streams.audio)]
    return [context.codec.canonical_name if context is not None else "unknown" for context in contexts]
