"""Decodes a clip of a recording once, for all measures: pictures, sound, and the motion vectors of the codec on the way."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.motionvectors import MotionVectors
from av.video.stream import VideoStream

from avpref.media.containers import MediaSource, opened
from avpref.media.geometry import RGB_BYTES, PictureSize
from avpref.media.picture.picture_tracks import best_video, fps_hz
from avpref.media.picture.shown_frames import FRAME_SLACK_S, FramePicker, PictureConverter
from avpref.media.reading import DecodedClip, with_sound
from avpref.media.reading_rules import ReadingRules
from avpref.media.sound.audio_samples import AudioCollector
from avpref.media.sound.audio_tracks import choose_audio
from avpref.media.window_decoding import Attempt, Collectors, can_seek, decode_window, require_ends
from avpref.pool.measure.frame_measures import DecodedFacts

COLLECT_EVERY = 16
"""Frames after which references of frames to themselves are collected; see :mod:`avpref.media.picture.shown_frames`."""


@dataclass(frozen=True)
class ClipWindow:
    """The part of a recording to decode, from ``start_s`` until ``end_s`` seconds, and how: size, rules, and the memory of the pictures.

    ``max_bytes`` 0 sets no limit.
    """

    start_s: float
    end_s: float
    size: PictureSize
    rules: ReadingRules
    max_bytes: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, eq=False)
class DecodedWindow:
    """A decoded clip and the facts of its decoding."""

    clip: DecodedClip
    facts: DecodedFacts


def decode_clip(source: MediaSource, window: ClipWindow) -> DecodedWindow:
    """Decode ``window``. Where its pictures need more memory than allowed, every second, third … frame is kept.

    Raises MediaError for a recording that cannot be decoded, or ends before the window.
    """
    for attempt in Attempt:
        if attempt is Attempt.AFTER_SEEK and not can_seek(window.start_s):
            continue
        with opened(source) as container:
            decoded = _decode(container, window, attempt)
        if decoded is not None:
            return decoded
    raise AssertionError("times in the order of decoding cannot run backwards")


def frame_times(window: ClipWindow, rate_hz: float) -> list[float]:
    """The times in seconds at which pictures of the window are taken: every 1/rate, none at or after its end."""
    number = max(1, math.ceil((window.duration_s - FRAME_SLACK_S) * rate_hz))
    return [window.start_s + index / rate_hz for index in range(number)]


class _MovingPicker(FramePicker):
    """Picks pictures, and measures the motion vectors of the frames in the window."""

    def __init__(self, stream: VideoStream, window: ClipWindow, rate_hz: float) -> None:
        times_s = frame_times(window, rate_hz)
        converter = PictureConverter(stream, window.size, len(times_s), window.rules)
        super().__init__(stream, times_s, converter, 1.0 / fps_hz(stream))
        self.motion: list[float] = []
        self._window, self._num_offered = window, 0

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """Take the next frame, shown from ``time_s`` on."""
        if self._window.start_s - FRAME_SLACK_S <= time_s < self._window.end_s - FRAME_SLACK_S:
            motion = frame_motion(frame)
            if motion is not None:
                self.motion.append(motion * fps_hz(self.stream))
            self._num_offered += 1
            if self._num_offered % COLLECT_EVERY == 0:
                gc.collect(1)
        super().offer(time_s, frame)


def frame_motion(frame: av.VideoFrame) -> float | None:
    """Mean length of the motion vectors of ``frame`` over its area, in picture heights; None where the codec gave none."""
    parts: Iterable[object] = frame.side_data
    data = next((part for part in parts if isinstance(part, MotionVectors)), None)
    if data is None:
        return None
    vectors = data.to_ndarray()
    if not len(vectors):
        return None
    scale = np.maximum(vectors["motion_scale"].astype(np.float64), 1.0)
    lengths = np.hypot(vectors["motion_x"] / scale, vectors["motion_y"] / scale)
    areas = vectors["w"].astype(np.float64) * vectors["h"]
    return float((areas * lengths).sum() / max(areas.sum(), frame.width * frame.height) / frame.height)


def _decode(container: InputContainer, window: ClipWindow, attempt: Attempt) -> DecodedWindow | None:
    video, audio = best_video(container), choose_audio(container, window.rules.audio_track)
    rate_hz = 0.0 if video is None else kept_rate_hz(video, window)
    sample_rate_hz = 0 if audio is None else audio.sample_rate
    if video is not None:
        video.codec_context.options = {**video.codec_context.options, "flags2": "+export_mvs"}

    def new_collectors() -> Collectors:
        picture = None if video is None else _MovingPicker(video, window, rate_hz)
        sound = None if audio is None else AudioCollector(audio, window.start_s, window.duration_s, sample_rate_hz)
        return Collectors(picture, sound)

    collectors = decode_window(container, window.start_s, new_collectors, attempt)
    if collectors is None:
        return None
    require_ends(container, collectors, window.end_s)
    picture = collectors.picture
    frames = None if picture is None else picture.pictures
    clip = DecodedClip(frames, rate_hz, None, sample_rate_hz, window.duration_s, window.start_s)
    if collectors.sound is not None:
        clip = with_sound(clip, collectors.sound)
    if video is None:
        return DecodedWindow(clip, DecodedFacts(0, 0, 0.0, "", ()))
    assert isinstance(picture, _MovingPicker)
    height, width = picture.pictures.shape[1:3]
    stored = (video.height, video.width)
    is_turned = (height > width) != (stored[0] > stored[1])
    size = stored[::-1] if is_turned else stored
    return DecodedWindow(clip, DecodedFacts(*size, fps_hz(video), video.codec_context.name, tuple(picture.motion)))


def kept_rate_hz(video: VideoStream, window: ClipWindow) -> float:
    """The rate at which pictures are kept: the recording's, or a whole part of it where they need too much memory."""
    rate_hz = fps_hz(video)
    if not window.max_bytes:
        return rate_hz
    number = max(1, round(window.duration_s * rate_hz))
    _, (height, width) = window.size.filled(video.height, video.width, number)
    step = max(1, math.ceil(number * height * width * RGB_BYTES / window.max_bytes))
    return rate_hz / step
