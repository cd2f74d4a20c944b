"""The timeline of a recording in seconds: it starts at the container's first timestamp. PyAV only."""

from __future__ import annotations

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from avpref.errors import MediaError
from avpref.media.fixes import remux_command
from avpref.media.measured_ends import measured_end_s


def origin_s(container: InputContainer) -> float:
    """Start of the timeline in seconds. Negative timestamps are priming samples, which are not played."""
    return max(0.0, (container.start_time or 0) / av.time_base)


PROGRAM_STREAM = "mpeg"
"""FFmpeg's name of MPEG program streams (mpg, vob), which stamp only some pictures, and have no lengths."""


def declared_end_s(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    """End of ``stream`` by its header in seconds on the timeline; None where the header has no length."""
    is_unknown = not stream.duration or stream.duration < 0 or container.format.name == PROGRAM_STREAM
    if is_unknown or stream.duration is None or stream.time_base is None:
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s(container)


def container_end_s(container: InputContainer) -> float | None:
    """End of the container in seconds by its header. Matroska and Flash count from zero, others from their first timestamp."""
    if not container.duration or container.duration < 0:
        return None
    counts_from_zero = any(name in container.format.name for name in ("matroska", "flv"))
    return container.duration / av.time_base - (origin_s(container) if counts_from_zero else 0.0)


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
