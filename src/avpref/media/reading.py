"""Read media files: properties of a file, and its video and audio by timestamp. PyAV and numpy only.

The timeline starts at the container's first timestamp. Frame k of a clip is the frame *shown* at ``start_s + k / fps_hz``; audio
samples are positioned by their timestamps, with zeros in gaps. Frame counts in headers and the order in the file are ignored, so
variable rates, B-frames, edit lists and priming samples are read correctly. Pictures are shown as players show them: turned, mirrored,
deinterlaced, with square pixels and in the standard range (:mod:`avpref.media.picture.display`).

Of several video streams the one with the most pixels is read (except cover art), of several audio streams the default one (see
:func:`avpref.media.sound.audio_tracks.choose_audio`). Channels are mixed to mono (:mod:`avpref.media.sound.downmix`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from avpref.errors import MediaError
from avpref.media.containers import MediaSource, opened
from avpref.media.geometry import OWN_SIZE, ClipShape, FilledSize, PictureSize
from avpref.media.picture.display import hdr_error
from avpref.media.picture.picture_tracks import VideoTrack, best_video, fps_hz, video_track
from avpref.media.picture.shown_frames import FramePicker, PictureConverter
from avpref.media.reading_rules import DEFAULT_READING, HdrHandling, ReadingRules
from avpref.media.sound.audio_samples import AudioCollector
from avpref.media.sound.audio_tracks import AudioTrack, choose_audio, track_properties
from avpref.media.sound.downmix import audible_weights, mix
from avpref.media.timeline import END_SLACK_S, recording_s
from avpref.media.window_decoding import (
    Attempt,
    Collectors,
    can_seek,
    decode_window,
    require_ends,
)


@dataclass(frozen=True)
class MediaInfo:
    """Properties of a media file. ``duration_s`` is the end of the video, or of the audio if there is no video.

    ``container`` is FFmpeg's name of the format, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
    """

    duration_s: float
    num_streams: int
    video: VideoTrack | None
    audio: AudioTrack | None
    container: str

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


def probe(source: MediaSource, rules: ReadingRules = DEFAULT_READING) -> MediaInfo:
    """Properties of ``source`` from its headers and one decoded frame, with the sound that ``rules`` choose.

    Raises MediaError if it cannot be read or is refused by ``rules``, and as :func:`avpref.media.sound.audio_tracks.choose_audio`.
    """
    with opened(source) as container:
        video, audio = best_video(container), choose_audio(container, rules.audio_track)
        track = None if video is None else video_track(container, video)
        if track is not None and track.hdr and rules.hdr is HdrHandling.REFUSE:
            raise hdr_error(container.name, track.hdr)
        return MediaInfo(
            duration_s=recording_s(container, video, audio),
            num_streams=len(container.streams),
            video=track,
            audio=None if audio is None else track_properties(container, audio),
            container=container.format.name,
        )


def read_clip(
    source: MediaSource,
    shape: ClipShape | None = None,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    size: PictureSize = OWN_SIZE,
    rules: ReadingRules = DEFAULT_READING,
) -> DecodedClip:
    """Decode the window of ``duration_s`` seconds (default: the shape's length, or the rest of the file) from ``start_s``.

    With a ``shape``, the video is resized to fill it (area averaging when shrinking, bilinear when enlarging), centre cropped and
    sampled at the shape's frame rate, and the audio is resampled to its sample rate. Without one, the rates are those of the
    file (a variable frame rate becomes its average), and the pictures are kept at ``size``.

    ``rules`` choose the sound, see :func:`avpref.media.sound.audio_tracks.choose_audio`. Where the recording has no sound, ``audio``
    is zero, and ``sound_share`` says for how much; ``has_video`` and ``has_audio`` report missing tracks. Raises MediaError for a
    file that cannot be decoded or is shorter than its header says, for sound that is not finite, for a track that cannot be chosen,
    and for a window that extends past the recording; ValueError for a negative start, a length of 0 or less, or two different lengths.
    """
    if shape is not None and duration_s is not None and abs(duration_s - shape.duration_s) > 1e-9:
        raise ValueError(f"duration_s is {duration_s} but the shape lasts {shape.duration_s} s; give one of the two")
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ValueError(f"a window needs start_s >= 0 and duration_s > 0, found {start_s} and {duration_s}")
    window = _Window(shape, size, start_s, duration_s, rules)
    for attempt in Attempt:
        if attempt is Attempt.AFTER_SEEK and not can_seek(start_s):
            continue
        with opened(source) as container:
            clip = _read(container, window, attempt)
        if clip is not None:
            return clip
    raise AssertionError("times in the order of decoding cannot run backwards")


@dataclass(frozen=True)
class _Window:
    """The part of a recording to read, and how."""

    shape: ClipShape | None
    size: PictureSize
    start_s: float
    duration_s: float | None
    rules: ReadingRules


def _read(container: InputContainer, window: _Window, attempt: Attempt) -> DecodedClip | None:
    """The window, or None where ``attempt`` did not do; see :mod:`avpref.media.window_decoding`."""
    shape, start_s = window.shape, window.start_s
    video, audio = best_video(container), choose_audio(container, window.rules.audio_track)
    length_s = recording_s(container, video, audio)
    window_s = shape.duration_s if shape is not None else window.duration_s or length_s - start_s
    _require_inside(container, length_s, start_s, window_s)
    picture_hz = 0.0 if video is None else shape.fps_hz if shape is not None else fps_hz(video)
    rate_hz = 0 if audio is None else shape.sample_rate_hz if shape is not None else audio.sample_rate

    def new_collectors() -> Collectors:
        picker = None if video is None else _frame_picker(video, window, window_s)
        sound = None if audio is None else AudioCollector(audio, start_s, window_s, rate_hz)
        return Collectors(picker, sound)

    collectors = decode_window(container, start_s, new_collectors, attempt)
    if collectors is None:
        return None
    require_ends(container, collectors, start_s + window_s)
    frames = None if collectors.picture is None else collectors.picture.pictures
    silent = DecodedClip(frames, picture_hz, None, rate_hz, window_s, start_s)
    return silent if collectors.sound is None else with_sound(silent, collectors.sound)


def with_sound(clip: DecodedClip, sound: AudioCollector) -> DecodedClip:
    """``clip`` with the collected sound; its mono mix uses one channel alone where the channels cancel."""
    weights = audible_weights(sound.channels, sound.weights)
    share = min(1.0, sound.num_covered / max(1, sound.channels.shape[1]))
    return replace(
        clip, audio=mix(sound.channels, weights), channels=sound.channels, weights=weights, sound_share=share
    )


def _frame_picker(stream: VideoStream, window: _Window, window_s: float) -> FramePicker:
    native_hz, shape, start_s = fps_hz(stream), window.shape, window.start_s
    if shape is None:
        times_s = [start_s + index / native_hz for index in range(max(1, round(window_s * native_hz)))]
        return FramePicker(
            stream, times_s, PictureConverter(stream, window.size, len(times_s), window.rules), 1.0 / native_hz
        )
    times_s = [start_s + index / shape.fps_hz for index in range(shape.num_frames)]
    size = FilledSize(shape.height_px, shape.width_px)
    return FramePicker(stream, times_s, PictureConverter(stream, size, len(times_s), window.rules), 1.0 / native_hz)


def _require_inside(container: InputContainer, length_s: float, start_s: float, window_s: float) -> None:
    if window_s <= 0 or start_s + window_s > length_s + END_SLACK_S:
        raise MediaError(
            found=f"{container.name}: {length_s:.3f} s long",
            expected=f"a recording that holds {max(window_s, 0.0):.3f} s from {start_s:.3f} s",
            fix="ask for an earlier or shorter window, or remove the file's row",
        )
