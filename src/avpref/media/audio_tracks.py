"""Choice and properties of the audio stream that is read from a file. PyAV only."""

from __future__ import annotations

from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer

from avpref.media.containers import decodable
from avpref.media.timeline import end_s


@dataclass(frozen=True)
class AudioTrack:
    """The audio stream that is read from a file."""

    stream_index: int
    codec: str
    duration_s: float
    sample_rate_hz: int
    num_channels: int


def best_audio(container: InputContainer) -> AudioStream | None:
    """The stream with the highest sample rate, then the most channels, then the first; None without one.

    Raises MediaError if none can be decoded.
    """
    audios = decodable(container, list(container.streams.audio))
    return max(audios, key=lambda stream: (stream.sample_rate, stream.channels), default=None)


def audio_track(container: InputContainer, stream: AudioStream) -> AudioTrack:
    """Properties of ``stream``, from headers."""
    duration_s = end_s(container, stream)
    return AudioTrack(stream.index, stream.codec_context.name, duration_s, stream.sample_rate, stream.channels)
