"""Reading clips: what a file holds, and its picture and sound by timestamp. PyAV and numpy only.

The timeline starts at the container's first timestamp. Frame k of a clip is the frame *being shown* at
``start_s + k / fps_hz``; audio samples lie where their timestamps put them, with gaps as zeros. Neither headers' frame
counts nor the order in a file decides, so variable rates, B-frames, edit lists and priming samples read correctly.

Where a file holds several streams the largest picture wins (cover art aside), and among audio streams the highest
sample rate, then the most channels; ties go to the first. Channels are averaged to mono. Pixels are taken as square.
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
"""How far a window may reach past the end of a recording: containers round lengths."""


@dataclass(frozen=True)
class VideoTrack:
    """The picture that is read from a file. Size is as displayed, after ``rotation_deg`` (counter-clockwise)."""

    stream_index: int
    codec: str
    duration_s: float
    fps_hz: float
    height_px: int
    width_px: int
    rotation_deg: int


@dataclass(frozen=True)
class AudioTrack:
    """The sound that is read from a file."""

    stream_index: int
    codec: str
    duration_s: float
    sample_rate_hz: int
    num_channels: int


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. ``duration_s`` is where the picture ends, or the sound where there is no picture."""

    duration_s: float
    num_streams: int
    video: VideoTrack | None
    audio: AudioTrack | None

    @property
    def has_video(self) -> bool:
        """Whether there is a picture."""
        return self.video is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is sound."""
        return self.audio is not None


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """Picture and sound of one window of a recording.

    ``frames`` is uint8 [T, H, W, 3] RGB and ``audio`` float32 [S], mono, S = round(duration_s · sample_rate_hz); either
    is None where the file has no such track. ``fps_hz`` is 0 without picture, ``sample_rate_hz`` is 0 without sound.
    ``channels`` is float32 [C, S], what ``audio`` is the mean of; only a clip that was read from a file has it.
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
        """Whether there is a picture."""
        return self.frames is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is sound."""
        return self.audio is not None


Stream = TypeVar("Stream", VideoStream, AudioStream)


def probe(source: MediaSource) -> MediaInfo:
    """What ``source`` holds, from its headers and one decoded frame. Raises MediaError where it cannot be read."""
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
    """Decode the window of ``duration_s`` (default: the shape's length, or all that follows) from ``start_s``.

    With a ``shape`` the picture is resized to fill it (area averaging when shrinking, bilinear when enlarging), cropped
    in the centre and taken at the shape's frame rate, and the sound is resampled to its rate; without one everything
    keeps the file's size and rates (variable frame rates become their average).

    Sound that ends before the window does is followed by zeros; a missing track is reported by ``has_video`` and
    ``has_audio``. Raises MediaError for a file that cannot be decoded or ends before its header says, and for a window
    that reaches past the recording; ValueError for a senseless window.
    """
    if shape is not None and duration_s is not None and abs(duration_s - shape.duration_s) > 1e-9:
        raise ValueError(f"duration_s is {duration_s} but the shape lasts {shape.duration_s} s; give one of the two")
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ValueError(f"a window needs start_s >= 0 and duration_s > 0, found {start_s} and {duration_s}")
    with _opened(source) as container:
        video, audio = _best_video(container), _best_audio(container)
        whole_s = _recording_s(container, video, audio)
        window_s = shape.duration_s if shape is not None else duration_s or whole_s - start_s
        _require_inside(container, whole_s, start_s, window_s)
        fps_hz = 0.0 if video is None else shape.fps_hz if shape is not None else _fps_hz(video)
        rate_hz = 0 if audio is None else shape.sample_rate_hz if shape is not None else audio.sample_rate
        picker = None if video is None else _picker(video, shape, start_s, window_s)
        placer = None if audio is None else AudioCollector(audio, start_s, window_s, rate_hz)
        takers = [taker for taker in (picker, placer) if taker is not None]
        _decode(container, start_s, takers)
        for taker in takers:
            _require_end(container, taker, start_s + window_s)
        _require_container_end(container, takers, start_s + window_s)
    frames = None if picker is None else np.stack(picker.picked)
    channels = None if placer is None else placer.channels
    mono = None if channels is None else channels.mean(axis=0)
    return DecodedClip(frames, fps_hz, mono, rate_hz, window_s, start_s, channels)


def _picker(stream: VideoStream, shape: ClipShape | None, start_s: float, window_s: float) -> FramePicker:
    fps_hz = _fps_hz(stream)
    if shape is None:
        wanted_s = [start_s + index / fps_hz for index in range(max(1, round(window_s * fps_hz)))]
        return FramePicker(stream, wanted_s, None, 1.0 / fps_hz)
    wanted_s = [start_s + index / shape.fps_hz for index in range(shape.num_frames)]
    return FramePicker(stream, wanted_s, (shape.height_px, shape.width_px), 1.0 / fps_hz)


def _decode(container: InputContainer, start_s: float, takers: list[FramePicker | AudioCollector]) -> None:
    origin_s = _origin_s(container)
    by_stream = {taker.stream.index: taker for taker in takers}
    for taker in takers:
        taker.stream.codec_context.thread_count = 1
    if start_s > 2 * PREROLL_S:
        container.seek(int((origin_s + start_s - PREROLL_S) * av.time_base))
    for packet in container.demux([taker.stream for taker in takers]):
        taker = by_stream[packet.stream.index]
        if taker.is_done:
            if all(other.is_done for other in takers):
                break
            continue
        if packet.is_corrupt:
            raise _ends_early(container.name, f"a damaged {packet.stream.type} packet", "whole packets")
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame) and isinstance(taker, FramePicker):
                taker.offer(_time_s(container, frame) - origin_s, frame)
            if isinstance(frame, av.AudioFrame) and isinstance(taker, AudioCollector):
                taker.offer(_time_s(container, frame) - origin_s, frame)
    for taker in takers:
        taker.finish()


def _time_s(container: InputContainer, frame: av.VideoFrame | av.AudioFrame) -> float:
    stamp = frame.pts if frame.pts is not None else frame.dts
    if stamp is None or frame.time_base is None:
        raise MediaError(
            found=f"{container.name}: a frame without a timestamp",
            expected="timestamps on every frame",
            fix="remux it: ffmpeg -fflags +genpts -i FILE -c copy fixed.mp4",
        )
    return float(stamp * frame.time_base)


def _require_inside(container: InputContainer, whole_s: float, start_s: float, window_s: float) -> None:
    if window_s <= 0 or start_s + window_s > whole_s + END_SLACK_S:
        raise MediaError(
            found=f"{container.name}: {whole_s:.3f} s long",
            expected=f"a recording that holds {max(window_s, 0.0):.3f} s from {start_s:.3f} s",
            fix="ask for an earlier or shorter window, or remove the file's row",
        )


def _require_end(container: InputContainer, taker: FramePicker | AudioCollector, end_s: float) -> None:
    """Refuse a stream that ran out before both the window's end and its own declared end, less one frame."""
    declared_s = _declared_end_s(container, taker.stream)
    has_nothing = isinstance(taker, FramePicker) and not taker.picked
    needed_s = end_s if declared_s is None else min(end_s, declared_s)
    is_short = declared_s is not None and taker.end_s < needed_s - taker.slack_s - FRAME_SLACK_S
    if has_nothing or (taker.has_run_out and is_short):
        raise _ends_early(container.name, f"{taker.stream.type} until {taker.end_s:.3f} s", f"{needed_s:.3f} s")


def _require_container_end(container: InputContainer, takers: list[FramePicker | AudioCollector], end_s: float) -> None:
    """Refuse a file of which no stream reaches the container's end; for containers that keep no length per stream."""
    whole_s = _container_end_s(container)
    if whole_s is None or not all(taker.has_run_out for taker in takers):
        return
    reached_s, needed_s = max(taker.end_s for taker in takers), min(end_s, whole_s)
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
    """Refuse an mp4 of which a top-level box is longer than the file. Other containers are left to their durations."""
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
    pictures = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return max(_decodable(container, pictures), key=lambda stream: stream.width * stream.height, default=None)


def _best_audio(container: InputContainer) -> AudioStream | None:
    sounds = _decodable(container, list(container.streams.audio))
    return max(sounds, key=lambda stream: (stream.sample_rate, stream.channels), default=None)


def _decodable(container: InputContainer, streams: list[Stream]) -> list[Stream]:
    """Those of ``streams`` that a decoder is known for; a file that has some, but none of these, is refused."""
    known = [stream for stream in streams if stream.codec_context is not None]
    if streams and not known:
        raise MediaError(
            found=f"{container.name}: {streams[0].type} in an unknown or damaged format",
            expected="a format that FFmpeg decodes, such as H.264 and AAC",
            fix="copy or make the file again, or remove its row",
        )
    return known


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
    """Where the timeline starts. Timestamps below zero are priming, which is not played."""
    return max(0.0, (container.start_time or 0) / av.time_base)


def _declared_end_s(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    if stream.duration is None or stream.time_base is None:
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - _origin_s(container)


def _container_end_s(container: InputContainer) -> float | None:
    """Where the container says that it ends; Matroska and Flash count from zero, others from their first timestamp."""
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
