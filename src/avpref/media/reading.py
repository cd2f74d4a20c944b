"""Read media files: properties of a file, and its video and audio by timestamp. PyAV and numpy only.

The timeline starts at the container's first timestamp. Frame k of a clip is the frame *shown* at ``start_s + k / fps_hz``; audio
samples are positioned by their timestamps, with zeros in gaps. Frame counts in headers and the order in the file are ignored, so
variable rates, B-frames, edit lists and priming samples are read correctly.

Of several video streams the one with the most pixels is read (except cover art), of several audio streams the one with the highest
sample rate, then the most channels, then the first. Channels are averaged to mono. Pixels are assumed to be square.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from avpref.errors import MediaError
from avpref.media.decoding import FRAME_SLACK_S, PREROLL_S, AudioCollector, FramePicker, quarter_turns
from avpref.media.geometry import ClipShape

MediaSource = Path | str | BinaryIO

END_SLACK_S = 0.1
"""Seconds by which a window may extend past the end of a recording, because containers round lengths."""


@dataclass(frozen=True)
class VideoTrack:
    """The video stream that is read from a file. The size is the displayed one, after ``rotation_deg`` (counter-clockwise)."""

    stream_index: int
    codec: str
    duration_s: float
    fps_hz: float
    height_px: int
    width_px: int
    rotation_deg: int


@dataclass(frozen=True)
class AudioTrack:
    """The audio stream that is read from a file."""

    stream_index: int
    codec: str
    duration_s: float
    sample_rate_hz: int
    num_channels: int


@dataclass(frozen=True)
class MediaInfo:
    """Properties of a media file. ``duration_s`` is the end of the video, or of the audio if there is no video."""

    duration_s: float
    num_streams: int
    video: VideoTrack | None
    audio: AudioTrack | None

    @property
    def has_video(self) -> bool:
        """Whether there is video."""
        return self.video is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is audio."""
        return self.audio is not None


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """Video and audio of one window of a recording.

    ``frames`` is uint8 [T, H, W, 3] RGB and ``audio`` float32 [S], mono, S = round(duration_s · sample_rate_hz); either
    is None if the file has no such track. ``fps_hz`` is 0 without video, ``sample_rate_hz`` is 0 without audio.
    ``channels`` is float32 [C, S], the channels whose mean is ``audio``; only clips that were read from a file have it.
    """

    frames: np.ndarray | None
    fps_hz: float
    audio: np.ndarray | None
    sample_rate_hz: int
    duration_s: float
    start_s: float = 0.0
    channels: np.ndarray | None = None

    @property
    def has_video(self) -> bool:
        """Whether there is video."""
        return self.frames is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is audio."""
        return self.audio is not None


Stream = TypeVar("Stream", VideoStream, AudioStream)


def probe(source: MediaSource) -> MediaInfo:
    """Properties of ``source`` from its headers and one decoded frame. Raises MediaError if it cannot be read."""
    with _opened(source) as container:
        video, audio = _best_video(container), _best_audio(container)
        return MediaInfo(
            duration_s=_recording_s(container, video, audio),
            num_streams=len(container.streams),
            video=None if video is None else _video_track(container, video),
            audio=None if audio is None else _audio_track(container, audio),
        )


def read_clip(
    source: MediaSource, shape: ClipShape | None = None, *, start_s: float = 0.0, duration_s: float | None = None
) -> DecodedClip:
    """Decode the window of ``duration_s`` seconds (default: the shape's length, or the rest of the file) from ``start_s``.

    With a ``shape``, the video is resized to fill it (area averaging when shrinking, bilinear when enlarging), centre cropped and
    sampled at the shape's frame rate, and the audio is resampled to its sample rate. Without one, size and rates are those of the
    file (a variable frame rate becomes its average).

    Audio that ends before the window is padded with zeros; ``has_video`` and ``has_audio`` report missing tracks. Raises MediaError
    for a file that cannot be decoded or is shorter than its header says, and for a window that extends past the recording;
    ValueError for a negative start, a length of 0 or less, or two different lengths.
    """
    if shape is not None and duration_s is not None and abs(duration_s - shape.duration_s) > 1e-9:
        raise ValueError(f"duration_s is {duration_s} but the shape lasts {shape.duration_s} s; give one of the two")
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ValueError(f"a window needs start_s >= 0 and duration_s > 0, found {start_s} and {duration_s}")
    with _opened(source) as container:
        video, audio = _best_video(container), _best_audio(container)
        length_s = _recording_s(container, video, audio)
        window_s = shape.duration_s if shape is not None else duration_s or length_s - start_s
        _require_inside(container, length_s, start_s, window_s)
        fps_hz = 0.0 if video is None else shape.fps_hz if shape is not None else _fps_hz(video)
        rate_hz = 0 if audio is None else shape.sample_rate_hz if shape is not None else audio.sample_rate
        picker = None if video is None else _frame_picker(video, shape, start_s, window_s)
        audio_collector = None if audio is None else AudioCollector(audio, start_s, window_s, rate_hz)
        collectors = [collector for collector in (picker, audio_collector) if collector is not None]
        _decode(container, start_s, collectors)
        for collector in collectors:
            _require_end(container, collector, start_s + window_s)
        _require_container_end(container, collectors, start_s + window_s)
    frames = None if picker is None else np.stack(picker.picked)
    channels = None if audio_collector is None else audio_collector.channels
    mono = None if channels is None else channels.mean(axis=0)
    return DecodedClip(frames, fps_hz, mono, rate_hz, window_s, start_s, channels)


def _frame_picker(stream: VideoStream, shape: ClipShape | None, start_s: float, window_s: float) -> FramePicker:
    fps_hz = _fps_hz(stream)
    if shape is None:
        times_s = [start_s + index / fps_hz for index in range(max(1, round(window_s * fps_hz)))]
        return FramePicker(stream, times_s, None, 1.0 / fps_hz)
    times_s = [start_s + index / shape.fps_hz for index in range(shape.num_frames)]
    return FramePicker(stream, times_s, (shape.height_px, shape.width_px), 1.0 / fps_hz)


def _decode(container: InputContainer, start_s: float, collectors: list[FramePicker | AudioCollector]) -> None:
    origin_s = _origin_s(container)
    by_stream = {collector.stream.index: collector for collector in collectors}
    for collector in collectors:
        collector.stream.codec_context.thread_count = 1
    if start_s > 2 * PREROLL_S:
        container.seek(int((origin_s + start_s - PREROLL_S) * av.time_base))
    for packet in container.demux([collector.stream for collector in collectors]):
        collector = by_stream[packet.stream.index]
        if collector.is_done:
            if all(other.is_done for other in collectors):
                break
            continue
        if packet.is_corrupt:
            raise _ends_early(container.name, f"a damaged {packet.stream.type} packet", "whole packets")
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame) and isinstance(collector, FramePicker):
                collector.offer(_time_s(container, frame) - origin_s, frame)
            if isinstance(frame, av.AudioFrame) and isinstance(collector, AudioCollector):
                collector.offer(_time_s(container, frame) - origin_s, frame)
    for collector in collectors:
        collector.finish()


def _time_s(container: InputContainer, frame: av.VideoFrame | av.AudioFrame) -> float:
    stamp = frame.pts if frame.pts is not None else frame.dts
    if stamp is None or frame.time_base is None:
        raise MediaError(
            found=f"{container.name}: a frame without a timestamp",
            expected="timestamps on every frame",
            fix="remux it: ffmpeg -fflags +genpts -i FILE -c copy fixed.mp4",
        )
    return float(stamp * frame.time_base)


def _require_inside(container: InputContainer, length_s: float, start_s: float, window_s: float) -> None:
    if window_s <= 0 or start_s + window_s > length_s + END_SLACK_S:
        raise MediaError(
            found=f"{container.name}: {length_s:.3f} s long",
            expected=f"a recording that holds {max(window_s, 0.0):.3f} s from {start_s:.3f} s",
            fix="ask for an earlier or shorter window, or remove the file's row",
        )


def _require_end(container: InputContainer, collector: FramePicker | AudioCollector, end_s: float) -> None:
    """Raises MediaError for a stream that ended before both the window's end and its declared end, less one frame."""
    declared_s = _declared_end_s(container, collector.stream)
    has_nothing = isinstance(collector, FramePicker) and not collector.picked
    needed_s = end_s if declared_s is None else min(end_s, declared_s)
    is_short = declared_s is not None and collector.end_s < needed_s - collector.slack_s - FRAME_SLACK_S
    if has_nothing or (collector.has_run_out and is_short):
        raise _ends_early(container.name, f"{collector.stream.type} until {collector.end_s:.3f} s", f"{needed_s:.3f} s")


def _require_container_end(
    container: InputContainer, collectors: list[FramePicker | AudioCollector], end_s: float
) -> None:
    """Raises MediaError if no stream reaches the container's end; for containers without lengths per stream."""
    length_s = _container_end_s(container)
    if length_s is None or not all(collector.has_run_out for collector in collectors):
        return
    reached_s, needed_s = max(collector.end_s for collector in collectors), min(end_s, length_s)
    if reached_s < needed_s - END_SLACK_S:
        raise _ends_early(container.name, f"media until {reached_s:.3f} s", f"{needed_s:.3f} s")


@contextmanager
def _opened(source: MediaSource) -> Iterator[InputContainer]:
    name = Path(source).name if isinstance(source, str | Path) else getattr(source, "name", "a clip in memory")
    try:
        if isinstance(source, str | Path):
            with open(source, "rb") as stream:
                _require_all_bytes(stream, name)
        else:
            _require_all_bytes(source, name)
        with av.open(str(source) if isinstance(source, Path) else source, "r", metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            found=f"{name}: {error.strerror or error}",
            expected="a whole, readable media file, such as mp4 with H.264 and AAC",
            fix=f"look at it with `ffprobe {name}`; copy or make the file again, or remove its row",
        ) from error


def _require_all_bytes(stream: BinaryIO, name: str) -> None:
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
            raise _ends_early(name, f"{size} bytes", f"{position + length} bytes, as its header says")
        position += max(length, 8)
    stream.seek(0)


def _ends_early(name: str, found: str, expected: str) -> MediaError:
    return MediaError(
        found=f"{Path(name).name or 'a clip in memory'} is cut short or damaged: {found}",
        expected=expected,
        fix="copy or make the file again, or remove its row",
    )


def _best_video(container: InputContainer) -> VideoStream | None:
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return max(_decodable(container, videos), key=lambda stream: stream.width * stream.height, default=None)


def _best_audio(container: InputContainer) -> AudioStream | None:
    audios = _decodable(container, list(container.streams.audio))
    return max(audios, key=lambda stream: (stream.sample_rate, stream.channels), default=None)


def _decodable(container: InputContainer, streams: list[Stream]) -> list[Stream]:
    """The ``streams`` that have a decoder. Raises MediaError if there are streams but none has one."""
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if streams and not decodable:
        raise MediaError(
            found=f"{container.name}: {streams[0].type} in an unknown or damaged format",
            expected="a format that FFmpeg decodes, such as H.264 and AAC",
            fix="copy or make the file again, or remove its row",
        )
    return decodable


def _video_track(container: InputContainer, stream: VideoStream) -> VideoTrack:
    stream.codec_context.thread_count = 1
    frame = next(container.decode(stream), None)
    if frame is None:
        raise _ends_early(container.name, "no frame in its video stream", "at least one frame")
    turns = quarter_turns(frame)
    height, width = (frame.height, frame.width) if turns % 2 == 0 else (frame.width, frame.height)
    duration_s = _end_s(container, stream)
    return VideoTrack(
        stream.index, stream.codec_context.name, duration_s, _fps_hz(stream), height, width, frame.rotation % 360
    )


def _audio_track(container: InputContainer, stream: AudioStream) -> AudioTrack:
    duration_s = _end_s(container, stream)
    return AudioTrack(stream.index, stream.codec_context.name, duration_s, stream.sample_rate, stream.channels)


def _fps_hz(stream: VideoStream) -> float:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate or stream.base_rate
    if not rate:
        raise MediaError(
            found="a video stream without a frame rate",
            expected="a container that keeps one, such as mp4",
            fix="remux it: ffmpeg -i FILE -c copy fixed.mp4",
        )
    return float(rate)


def _origin_s(container: InputContainer) -> float:
    """Start of the timeline in seconds. Negative timestamps are priming samples, which are not played."""
    return max(0.0, (container.start_time or 0) / av.time_base)


def _declared_end_s(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    if stream.duration is None or stream.time_base is None:
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - _origin_s(container)


def _container_end_s(container: InputContainer) -> float | None:
    """End of the container in seconds by its header. Matroska and Flash count from zero, others from their first timestamp."""
    if container.duration is None:
        return None
    counts_from_zero = any(name in container.format.name for name in ("matroska", "flv"))
    return container.duration / av.time_base - (_origin_s(container) if counts_from_zero else 0.0)


def _end_s(container: InputContainer, stream: VideoStream | AudioStream) -> float:
    declared_s = _declared_end_s(container, stream)
    end_s = declared_s if declared_s is not None else _container_end_s(container)
    if end_s is None:
        raise MediaError(
            found=f"{container.name}: no duration in its header",
            expected="a container that keeps one, such as mp4",
            fix="remux it: ffmpeg -i FILE -c copy fixed.mp4",
        )
    return end_s


def _recording_s(container: InputContainer, video: VideoStream | None, audio: AudioStream | None) -> float:
    stream = video if video is not None else audio
    if stream is None:
        raise MediaError(
            found=f"{container.name}: neither picture nor sound",
            expected="a video or audio stream",
            fix="remove the file's row",
        )
    return _end_s(container, stream)
