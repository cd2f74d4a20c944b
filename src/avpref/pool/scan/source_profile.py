"""One pass over a recording, without keeping it: changes from frame to frame, picture hashes, sound prints.

All frames are decoded once, in bounded memory, however long the recording is. Everything that cutting and the search for duplicates
need is kept, so neither decodes again.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avpref.errors import MediaError
from avpref.media.containers import MediaSource, opened
from avpref.media.frame_times import length_s
from avpref.media.picture.picture_tracks import best_video, fps_hz
from avpref.media.picture.shown_frames import FramePicker, PictureConverter
from avpref.media.reading_rules import ReadingRules
from avpref.media.sound.audio_tracks import choose_audio
from avpref.media.timeline import recording_s
from avpref.media.window_decoding import Attempt, Collectors, decode_window, require_ends
from avpref.pool.scan.frame_changes import FrameChanges
from avpref.pool.scan.picture_hashes import HashedPictures
from avpref.pool.scan.sound_prints import SoundPrinter

WIDEST_PX = 256
"""Width to which pictures are reduced before they are compared, as PySceneDetect reduces them."""
VARIABLE_S, VARIABLE_SHARE = 0.003, 0.1
"""A rate is variable where a frame is shown longer or shorter than usual by more than both: 3 ms, and a tenth of its time."""


@dataclass(frozen=True, eq=False)
class SourceProfile:
    """All that is kept of a recording: times of frames in seconds, their changes, hashes with slots, prints.

    ``end_s`` is the end of the picture.
    """

    frame_times_s: NDArray[np.float64]
    changes: FrameChanges
    pictures: HashedPictures
    sound_prints: NDArray[np.int64]
    end_s: float

    @property
    def is_variable_rate(self) -> bool:
        """Whether frames are shown for different times."""
        return is_variable(self.frame_times_s)


def is_variable(times_s: NDArray[np.float64]) -> bool:
    """Whether the distances of ``times_s`` [T] differ by more than rounding."""
    if len(times_s) < 3:
        return False
    steps = np.diff(times_s)
    usual = float(np.median(steps))
    return bool(np.max(np.abs(steps - usual)) > max(VARIABLE_S, VARIABLE_SHARE * usual))


class _SmallSize:
    """The recording's shape, at most :data:`WIDEST_PX` wide."""

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """See :class:`avpref.media.geometry.PictureSize`."""
        scale = min(1.0, WIDEST_PX / width_px)
        size = max(1, round(height_px * scale)), max(1, round(width_px * scale))
        return size, size


class _Profiler(FramePicker):
    """Takes every decoded frame, measures it and drops it."""

    def __init__(self, stream: VideoStream, rules: ReadingRules) -> None:
        step_s = 1.0 / fps_hz(stream)
        super().__init__(stream, (), PictureConverter(stream, _SmallSize(), 1, rules), step_s)
        self.times_s: list[float] = []
        self.changes = FrameChanges()
        self.hashed = HashedPictures()
        self._shape: tuple[int, ...] = ()

    @property
    def is_done(self) -> bool:
        """False: a profile is of the whole recording."""
        return False

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """Measure the next frame, shown from ``time_s`` seconds on."""
        picture = np.ascontiguousarray(self._converter.shown(frame))
        if self._shape and picture.shape != self._shape:
            raise MediaError(
                f"{self.stream.container.name}: the size of its picture changes",
                "pictures of one size",
                "remove its row",
            )
        self._shape = picture.shape
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
        self.changes.add(picture, grey)
        self.hashed.add(time_s, grey)
        self.times_s.append(time_s)
        self.num_picked += 1
        self.end_s = time_s + length_s(frame, self.slack_s)

    def finish(self) -> None:
        """End of the stream."""
        self.has_run_out = True
        self.hashed.finish(self.end_s)


def profile(source: MediaSource, rules: ReadingRules) -> SourceProfile:
    """The profile of a recording with a picture. Raises MediaError where it cannot be decoded or ends before its header says."""
    for attempt in (Attempt.FROM_START, Attempt.FROM_START_IN_DECODING_ORDER):
        with opened(source) as container:
            result = _profile(container, rules, attempt)
        if result is not None:
            return result
    raise AssertionError("times in the order of decoding cannot run backwards")


def _profile(container: InputContainer, rules: ReadingRules, attempt: Attempt) -> SourceProfile | None:
    video, audio = best_video(container), choose_audio(container, rules.audio_track)
    if video is None:
        raise MediaError(f"{container.name}: no picture", "a recording with a picture", "remove its row")

    def new_collectors() -> Collectors:
        assert video is not None
        return Collectors(_Profiler(video, rules), None if audio is None else SoundPrinter(audio))

    length = recording_s(container, video, audio)
    collectors = decode_window(container, 0.0, new_collectors, attempt)
    if collectors is None:
        return None
    require_ends(container, collectors, length)
    picture, sound = collectors.picture, collectors.sound
    assert isinstance(picture, _Profiler)
    prints = sound.all_prints if isinstance(sound, SoundPrinter) else np.zeros(0, np.int64)
    return SourceProfile(np.array(picture.times_s), picture.changes, picture.hashed, prints, picture.end_s)
