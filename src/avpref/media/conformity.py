"""Whether a file can stay as it is among clips of one shape, or has to be encoded again. PyAV alone."""

from __future__ import annotations

from fractions import Fraction

from av.container import InputContainer

from avpref.errors import MediaError
from avpref.media.containers import MediaSource, opened
from avpref.media.geometry import ClipShape

MAX_CHANNELS = 2


def conforms(source: MediaSource, shape: ClipShape) -> bool:
    """Whether ``source`` is an mp4 with one H.264 and one AAC stream, of the size, rates, frames and samples of ``shape``.

    Packets are counted and not decoded. A file that cannot be read does not conform.
    """
    try:
        with opened(source) as container:
            return _has_streams(container, shape) and _has_all_packets(container, shape)
    except MediaError:
        return False


def _has_streams(container: InputContainer, shape: ClipShape) -> bool:
    videos, audios = container.streams.video, container.streams.audio
    if "mp4" not in container.format.name or len(container.streams) != 2 or len(videos) != 1 or len(audios) != 1:
        return False
    video, audio = videos[0].codec_context, audios[0].codec_context
    if video is None or audio is None or (video.name, audio.name) != ("h264", "aac"):
        return False
    rate = Fraction(shape.fps_hz).limit_denominator(1001)
    return (
        (video.height, video.width) == (shape.height_px, shape.width_px)
        and video.pix_fmt == "yuv420p"
        and videos[0].average_rate == rate
        and audio.sample_rate == shape.sample_rate_hz
        and audio.channels <= MAX_CHANNELS
    )


def _has_all_packets(container: InputContainer, shape: ClipShape) -> bool:
    """Exactly the frames of ``shape``, and sound that ends at most one AAC packet before or two after them (priming and padding)."""
    num_frames, num_samples = 0, 0
    audio = container.streams.audio[0]
    for packet in container.demux():
        if packet.size and packet.stream is audio:
            num_samples += round((packet.duration or 0) * packet.time_base * shape.sample_rate_hz)
        elif packet.size:
            num_frames += 1
    frame_size = audio.codec_context.frame_size or 1024
    return num_frames == shape.num_frames and -frame_size <= num_samples - shape.num_samples <= 3 * frame_size
