"""Read media files: properties of a file, and its video and audio by timestamp. PyAV and numpy only.

The timeline starts at the container's first timestamp. Frame k of a clip is the frame *shown* at ``start_s + k / fps_hz``; audio
samples are positioned by their timestamps, with zeros in gaps. Frame counts in headers and the order in the file are ignored, so
variable rates, B-frames, edit lists and priming samples are read correctly.

Of several video streams the one with the most pixels is read (except cover art), of several audio streams the default one (see
:func:`avpref.media.audio_tracks.choose_audio`). Channels are mixed to mono (:mod:`avpref.media.downmix`). Pixels are assumed to be
square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from avpref.errors import MediaError
from avpref.media.audio_samples import AudioCollector
from avpref.media.audio_tracks import AudioTrack, TrackChoice, choose_audio, track_properties
from avpref.media.containers import MediaSource, opened
from avpref.media.downmix import audible_weights, mix
from avpref.media.geometry import ClipShape
from avpref.media.picture_tracks import VideoTrack, best_video, fps_hz, video_track
from avpref.media.shown_frames import FramePicker
from avpref.media.timeline import recording_s
from avpref.media.window_decoding import END_SLACK_S, decode_window, require_container_end, require_end


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
    ``channels`` is float32 [C, S], the channels whose sum with ``weights`` is ``audio`` (without weights: their mean); only clips that
    were read from a file have it. ``sound_share`` is the share of the window for which the recording has sound.
    """

    frames: np.ndarray | None
    fps_hz: float
    audio: np.ndarray | None
    sample_rate_hz: int
    duration_s: float
    start_s: float = 0.0
    channels: np.ndarray | None = None
    weights: tuple[float, ...] = ()
    sound_share: float = 1.0

    @property
    def has_video(self) -> bool:
        """Whether there is video."""
        return self.frames is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is audio."""
        return self.audio is not None

    @property
    def channel_mean(self) -> np.ndarray | None:
        """The plain mean [S] of all channels, which published scorers hear; ``audio`` where that mean cancels.

        For mono and stereo it is ``audio``.
        """
        if self.channels is None or len(self.channels) <= 2:
            return self.audio
        equal = (1.0 / len(self.channels),) * len(self.channels)
        is_audible = audible_weights(self.channels, equal) == equal
        return mix(self.channels, equal) if is_audible else self.audio


def probe(source: MediaSource, audio_track: TrackChoice = "") -> MediaInfo:
    """Properties of ``source`` from its headers and one decoded frame, with the sound of ``audio_track``.

    Raises MediaError if it cannot be read, and as :func:`avpref.media.audio_tracks.choose_audio`.
    """
    with opened(source) as container:
        video, audio = best_video(container), choose_audio(container, audio_track)
        return MediaInfo(
            duration_s=recording_s(container, video, audio),
            num_streams=len(container.streams),
            video=None if video is None else video_track(container, video),
            audio=None if audio is None else track_properties(container, audio),
        )


def read_clip(
    source: MediaSource,
    shape: ClipShape | None = None,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    audio_track: TrackChoice = "",
) -> DecodedClip:
    """Decode the window of ``duration_s`` seconds (default: the shape's length, or the rest of the file) from ``start_s``.

    With a ``shape``, the video is resized to fill it (area averaging when shrinking, bilinear when enlarging), centre cropped and
    sampled at the shape's frame rate, and the audio is resampled to its sample rate. Without one, size and rates are those of the
    file (a variable frame rate becomes its average).

    ``audio_track`` chooses the sound, see :func:`avpref.media.audio_tracks.choose_audio`. Where the recording has no sound, ``audio``
    is zero, and ``sound_share`` says for how much; ``has_video`` and ``has_audio`` report missing tracks. Raises MediaError for a
    file that cannot be decoded or is shorter than its header says, for sound that is not finite, for a track that cannot be chosen,
    and for a window that extends past the recording; ValueError for a negative start, a length of 0 or less, or two different lengths.
    """
    if shape is not None and duration_s is not None and abs(duration_s - shape.duration_s) > 1e-9:
        raise ValueError(f"duration_s is {duration_s} but the shape lasts {shape.duration_s} s; give one of the two")
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ValueError(f"a window needs start_s >= 0 and duration_s > 0, found {start_s} and {duration_s}")
    with opened(source) as container:
        video, audio = best_video(container), choose_audio(container, audio_track)
        length_s = recording_s(container, video, audio)
        window_s = shape.duration_s if shape is not None else duration_s or length_s - start_s
        _require_inside(container, length_s, start_s, window_s)
        picture_hz = 0.0 if video is None else shape.fps_hz if shape is not None else fps_hz(video)
        rate_hz = 0 if audio is None else shape.sample_rate_hz if shape is not None else audio.sample_rate
        picker = None if video is None else _frame_picker(video, shape, start_s, window_s)
        audio_collector = None if audio is None else AudioCollector(audio, start_s, window_s, rate_hz)
        collectors = [collector for collector in (picker, audio_collector) if collector is not None]
        decode_window(container, start_s, collectors)
        for collector in collectors:
            require_end(container, collector, start_s + window_s)
        require_container_end(container, collectors, start_s + window_s)
        if picker is not None:
            require_one_size(container.name, picker.picked)
    frames = None if picker is None else np.stack(picker.picked)
    silent = DecodedClip(frames, picture_hz, None, rate_hz, window_s, start_s)
    return silent if audio_collector is None else with_sound(silent, audio_collector)


def require_one_size(name: str, pictures: Sequence[np.ndarray]) -> None:
    """Raises MediaError if ``pictures`` [H, W, 3] do not all have the size of the first."""
    other = next((picture for picture in pictures if picture.shape != pictures[0].shape), None)
    if other is not None:
        (height, width), (new_height, new_width) = pictures[0].shape[:2], other.shape[:2]
        raise MediaError(
            found=f"{Path(name).name}: the size of its picture changes from {width} x {height} to {new_width} x {new_height}",
            expected="pictures of one size",
            fix=f"ffmpeg -i FILE -vf scale={width}:{height} fixed.mp4, or remove its row",
        )


def with_sound(clip: DecodedClip, sound: AudioCollector) -> DecodedClip:
    """``clip`` with the collected sound; its mono mix uses one channel alone where the channels cancel."""
    weights = audible_weights(sound.channels, sound.weights)
    share = min(1.0, sound.num_covered / max(1, sound.channels.shape[1]))
    return replace(
        clip, audio=mix(sound.channels, weights), channels=sound.channels, weights=weights, sound_share=share
    )


def _frame_picker(stream: VideoStream, shape: ClipShape | None, start_s: float, window_s: float) -> FramePicker:
    native_hz = fps_hz(stream)
    if shape is None:
        times_s = [start_s + index / native_hz for index in range(max(1, round(window_s * native_hz)))]
        return FramePicker(stream, times_s, None, 1.0 / native_hz)
    times_s = [start_s + index / shape.fps_hz for index in range(shape.num_frames)]
    return FramePicker(stream, times_s, (shape.height_px, shape.width_px), 1.0 / native_hz)


def _require_inside(container: InputContainer, length_s: float, start_s: float, window_s: float) -> None:
    if window_s <= 0 or start_s + window_s > length_s + END_SLACK_S:
        raise MediaError(
            found=f"{container.name}: {length_s:.3f} s long",
            expected=f"a recording that holds {max(window_s, 0.0):.3f} s from {start_s:.3f} s",
            fix="ask for an earlier or shorter window, or remove the file's row",
        )
