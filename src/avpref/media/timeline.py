"""The timeline of a recording in seconds: it starts at the container's first timestamp. PyAV only."""

from __future__ import annotations

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from avpref.errors import MediaError
from avpref.media.fixes import remux_command
from avpref.media.measured_ends import measured_end_s

END_SLACK_S = 0.1
"""Seconds by which a window may extend past the end of a recording, because containers round lengths."""
PROGRAM_STREAM, WINDOWS_MEDIA, FLASH = "mpeg", "asf", "flv"
"""FFmpeg's names of MPEG program streams (mpg, vob), which stamp only some pictures, and have no lengths; of WMV and WMA, whose
header has one length for all streams, from time zero; and of FLV, whose writers count the length from zero or from the first picture."""
LONGEST_PRIMING_S = 0.25
"""Seconds before time zero up to which timestamps are those of priming samples. Files that begin earlier begin there."""
MPEG_CLOCKS = frozenset({PROGRAM_STREAM, "mpegts"})
"""Formats without priming samples. FFmpeg gives negative times to what comes before their clock of 26.5 hours overflows."""


def origin_s(container: InputContainer) -> float:
    """Start of the timeline in seconds: the first timestamp; priming samples before time zero are not played."""
    first_s = (container.start_time or 0) / av.time_base
    if first_s >= -LONGEST_PRIMING_S and container.format.name not in MPEG_CLOCKS:
        pictures_s = [start_s for stream in container.streams.video if (start_s := _start_s(stream)) is not None]
        return max(first_s, min(0.0, *pictures_s)) if pictures_s else max(0.0, first_s)
    return first_s


def _start_s(stream: VideoStream | AudioStream) -> float | None:
    """The first timestamp of ``stream`` in seconds on the container's clock."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def declared_end_s(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    """End of ``stream`` by its header in seconds on the timeline; None where the header has no length."""
    has_no_lengths = container.format.name in (PROGRAM_STREAM, WINDOWS_MEDIA)
    is_unknown = not stream.duration or stream.duration < 0 or has_no_lengths
    if is_unknown or stream.duration is None or stream.time_base is None:
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s(container)


def container_end_s(container: InputContainer) -> float | None:
    """End of the container in seconds by its header, or None where it has no length, or one that may count from either start.

    Matroska and Windows Media count from zero, others from their first timestamp.
    """
    first_s, name = origin_s(container), container.format.name
    if name == WINDOWS_MEDIA:
        lengths = [
            float(stream.duration * stream.time_base)
            for stream in container.streams
            if stream.duration and stream.time_base
        ]
        return max(lengths) - first_s if lengths and max(lengths) > first_s else None
    if not container.duration or container.duration < 0 or (name == FLASH and abs(first_s) > END_SLACK_S):
        return None
    length_s = container.duration / av.time_base
    return length_s - first_s if "matroska" in name and length_s > first_s else length_s


def end_s(container: InputContainer, stream: VideoStream | AudioStream) -> float:
    """End of ``stream`` in seconds, by its header, the container's, or its packets. Raises MediaError where none has a length."""
    declared_s = declared_end_s(container, stream)
    length_s = declared_s if declared_s is not None else container_end_s(container)
    if length_s is None:
        measured_s = measured_end_s(container, stream)
        length_s = None if measured_s is None else measured_s - origin_s(container)
    if length_s is None:
        raise MediaError(
            found=f"{container.name}: no duration in its header, and no packet with a timestamp",
            expected="a container that keeps timestamps",
            fix=remux_command(container),
        )
    return length_s


def recording_s(container: InputContainer, video: VideoStream | None, audio: AudioStream | None) -> float:
    """End of the video, or of the audio if there is no video, in seconds. Raises MediaError where both are None."""
    stream = video if video is not None else audio
    if stream is None:
        raise MediaError(
            found=f"{container.name}: neither picture nor sound",
            expected="a video or audio stream",
            fix="remove the file's row",
        )
    return end_s(container, stream)
