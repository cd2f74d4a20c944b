"""Choice and properties of the video stream that is read from a file. PyAV only."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from avpref.errors import MediaError
from avpref.media.containers import decodable, ends_early
from avpref.media.fixes import transcode_command
from avpref.media.picture.display import hdr_curve, orientation, shown_size
from avpref.media.timeline import end_s

LARGEST_ROUNDING = Fraction(1, 1200)
"""Relative difference below which the average of a recording's frame rate is its nominal one. NTSC rates differ by 1/1000."""


@dataclass(frozen=True)
class VideoTrack:
    """The video stream that is read from a file.

    The size is the displayed one, in square pixels, after the stored picture is turned by ``rotation_deg`` (counter-clockwise) and
    then mirrored (left and right exchanged) if ``is_mirrored``. ``hdr`` is ``PQ`` or ``HLG`` for high dynamic range, else empty.
    """

    stream_index: int
    codec: str
    duration_s: float
    fps_hz: float
    height_px: int
    width_px: int
    rotation_deg: int
    is_mirrored: bool = False
    hdr: str = ""


def best_video(container: InputContainer) -> VideoStream | None:
    """The stream with the most pixels, except cover art; None without one. Raises MediaError if none can be decoded."""
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return max(decodable(container, videos), key=lambda stream: stream.width * stream.height, default=None)


def video_track(container: InputContainer, stream: VideoStream) -> VideoTrack:
    """Properties of ``stream``; decodes one frame. Raises MediaError where there is none."""
    stream.codec_context.thread_count = 1
    frame = next(container.decode(stream), None)
    if frame is None:
        raise ends_early(container.name, "no frame in its video stream", "at least one frame")
    turned, (height, width) = orientation(stream, frame), shown_size(stream, frame)
    if turned.is_transposed:
        height, width = width, height
    duration_s = end_s(container, stream)
    return VideoTrack(
        stream_index=stream.index,
        codec=stream.codec_context.name,
        duration_s=duration_s,
        fps_hz=fps_hz(stream),
        height_px=height,
        width_px=width,
        rotation_deg=turned.rotation_deg,
        is_mirrored=turned.is_mirrored,
        hdr=hdr_curve(frame),
    )


def fps_hz(stream: VideoStream) -> float:
    """Frame rate of ``stream``: the average one, or FFmpeg's guess of the nominal one where both differ by rounding alone.

    Raises MediaError where it is unknown.
    """
    rate: Fraction | None = stream.average_rate or stream.guessed_rate or stream.base_rate
    nominal: Fraction | None = stream.guessed_rate
    if rate and nominal and abs(nominal / rate - 1) < LARGEST_ROUNDING:
        rate = nominal
    if not rate:
        raise MediaError(
            found=f"{stream.container.name}: a video stream without a frame rate",
            expected="a stream whose pictures have times",
            fix=transcode_command(stream.container),
        )
    return float(rate)
