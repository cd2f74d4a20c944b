"""Writes a clip of a recording as an mp4 of constant frame rate with both tracks on one clock, frame by frame in bounded memory.

Frame k is the picture that the recording shows at ``start_s + k / fps``, and the sound begins at ``start_s``.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avpref.config.pool.pool_settings import WriteSettings
from avpref.errors import MediaError
from avpref.media.containers import MediaSource, opened
from avpref.media.frame_times import length_s
from avpref.media.geometry import FilledSize, PictureSize
from avpref.media.picture.picture_tracks import best_video, fps_hz
from avpref.media.picture.shown_frames import FRAME_SLACK_S, FramePicker, PictureConverter
from avpref.media.reading import DecodedClip, with_sound
from avpref.media.sound.audio_samples import AudioCollector
from avpref.media.sound.audio_tracks import choose_audio
from avpref.media.window_decoding import Attempt, Collectors, can_seek, decode_window, require_ends
from avpref.media.writing import ClipEncoder, EncodedLayout
from avpref.pool.measure.clip_window import ClipWindow, frame_times


@dataclass(frozen=True)
class EncodedClip:
    """A written clip in memory, and its shape."""

    data: bytes
    layout: EncodedLayout


class EvenSize:
    """The recording's size with even numbers of pixels, at another height and width where they are not 0."""

    def __init__(self, height_px: int, width_px: int) -> None:
        self._height_px, self._width_px = height_px, width_px

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """See :class:`avpref.media.geometry.PictureSize`."""
        height = self._height_px or max(2, height_px // 2 * 2)
        natural = max(2, round(height * width_px / height_px / 2) * 2) if self._height_px else max(2, width_px // 2 * 2)
        return FilledSize(height, self._width_px or natural).filled(height_px, width_px, num_pictures)


class _EncodingPicker(FramePicker):
    """Hands each picked picture to an encoder and keeps none."""

    def __init__(
        self, stream: VideoStream, window: ClipWindow, rate_hz: float, num_samples: int, sound_hz: int
    ) -> None:
        self._picked_times_s = frame_times(window, rate_hz)
        converter = PictureConverter(stream, window.size, 1, window.rules)
        super().__init__(stream, self._picked_times_s, converter, 1.0 / fps_hz(stream))
        self._rate_hz, self._num_samples, self._sound_hz = rate_hz, num_samples, sound_hz
        self.encoder: ClipEncoder | None = None
        self.layout: EncodedLayout | None = None
        self._frame: av.VideoFrame | None = None

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """Take the next frame, shown from ``time_s`` on. The first frame also serves earlier times."""
        if self._frame is not None:
            self._encode_until(time_s - FRAME_SLACK_S)
        self._frame = frame
        self.end_s = time_s + length_s(frame, self.slack_s)

    def finish(self) -> None:
        """End of the stream: the last frame serves the remaining times."""
        self.has_run_out = not self.is_done
        if self._frame is not None:
            self._encode_until(float("inf"))

    def _encode_until(self, time_s: float) -> None:
        picture: NDArray[np.uint8] | None = None
        while not self.is_done and self._picked_times_s[self.num_picked] < time_s:
            if picture is None:
                assert self._frame is not None
                picture = np.ascontiguousarray(self._converter.shown(self._frame))
            self._encoder(picture).add(picture)
            self.num_picked += 1

    def _encoder(self, picture: NDArray[np.uint8]) -> ClipEncoder:
        if self.encoder is None or self.layout is None:
            height, width = picture.shape[:2]
            number = len(self._picked_times_s)
            self.layout = EncodedLayout(number, height, width, self._rate_hz, self._num_samples, self._sound_hz)
            self.encoder = ClipEncoder(self.layout)
        elif picture.shape[:2] != (self.layout.height_px, self.layout.width_px):
            name = self.stream.container.name
            raise MediaError(f"{name}: the size of its picture changes", "pictures of one size", "remove its row")
        return self.encoder


def encode_window(source: MediaSource, window: ClipWindow, settings: WriteSettings) -> EncodedClip:
    """The clip of ``window`` as an mp4. Raises MediaError where it cannot be decoded, or has not both tracks."""
    for attempt in Attempt:
        if attempt is Attempt.AFTER_SEEK and not can_seek(window.start_s):
            continue
        with opened(source) as container:
            encoded = _encode(container, window, settings, attempt)
        if encoded is not None:
            return encoded
    raise AssertionError("times in the order of decoding cannot run backwards")


def written_size(settings: WriteSettings) -> PictureSize:
    """The size of written clips."""
    return EvenSize(settings.height_px, settings.width_px)


def _encode(
    container: InputContainer, window: ClipWindow, settings: WriteSettings, attempt: Attempt
) -> EncodedClip | None:
    video, audio = best_video(container), choose_audio(container, window.rules.audio_track)
    if video is None or audio is None:
        absent = "picture" if video is None else "sound"
        raise MediaError(f"no {absent}", "clips are written with both tracks", "--set scan.require_sound=true")
    stream, track = video, audio
    rate_hz, sound_hz = settings.fps_hz or fps_hz(video), settings.sample_rate_hz or audio.sample_rate
    num_pictures = len(frame_times(window, rate_hz))
    sound_s = num_pictures / rate_hz
    num_samples = round(sound_s * sound_hz)

    def new_collectors() -> Collectors:
        picture = _EncodingPicker(stream, window, rate_hz, num_samples, sound_hz)
        return Collectors(picture, AudioCollector(track, window.start_s, sound_s, sound_hz))

    collectors = decode_window(container, window.start_s, new_collectors, attempt)
    if collectors is None:
        return None
    require_ends(container, collectors, window.end_s)
    picture, sound = collectors.picture, collectors.sound
    assert isinstance(picture, _EncodingPicker) and sound is not None
    assert picture.encoder is not None and picture.layout is not None
    clip = with_sound(DecodedClip(None, rate_hz, None, sound_hz, sound_s), sound)
    assert clip.audio is not None
    return EncodedClip(picture.encoder.finish(np.ascontiguousarray(clip.audio, np.float32)), picture.layout)
