"""From decoded frames to a window of picture and sound, by timestamp. Used by :mod:`avpref.media.reading`; PyAV and numpy only.

Both classes are fed frames in the order of their timestamps, in seconds on the recording's timeline.
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from avpref.errors import MediaError

FRAME_SLACK_S = 0.001
"""A frame that begins this little after a wanted instant still serves it: containers round timestamps."""
RESYNC_S = 0.005
"""Audio timestamps that disagree with the running sample count by more than this begin a new stretch."""
PREROLL_S = 0.25
"""Audio decoded ahead of a window, so that the decoder's and resampler's start is over when the window begins."""


class FramePicker:
    """Keeps, for each wanted instant, the frame that is being shown then.

    ``picked`` holds uint8 [H, W, 3] RGB arrays; ``size`` is (H, W) after filling and centre cropping, or None for the
    frames' own size. ``end_s`` is where the frames seen so far end; ``step_s`` is the usual length of one.
    """

    def __init__(
        self, stream: VideoStream, wanted_s: Sequence[float], size: tuple[int, int] | None, step_s: float
    ) -> None:
        self.stream = stream
        self.slack_s = step_s
        self.picked: list[np.ndarray] = []
        self.end_s = 0.0
        self.has_run_out = False
        self._wanted_s, self._size = wanted_s, size
        self._reformatter = VideoReformatter()
        self._held: av.VideoFrame | None = None
        self._held_rgb: np.ndarray | None = None

    @property
    def is_done(self) -> bool:
        """Whether every wanted instant has its frame."""
        return len(self.picked) == len(self._wanted_s)

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """Take the next frame, shown from ``time_s`` on. The first one also stands in for whatever is earlier."""
        if self._held is not None:
            self._pick_until(time_s - FRAME_SLACK_S)
        self._held, self._held_rgb = frame, None
        length_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else self.slack_s
        self.end_s = time_s + length_s

    def finish(self) -> None:
        """No more frames: the last one serves what is left, and ``has_run_out`` says whether anything was."""
        self.has_run_out = not self.is_done
        if self._held is not None:
            self._pick_until(float("inf"))

    def _pick_until(self, time_s: float) -> None:
        while not self.is_done and self._wanted_s[len(self.picked)] < time_s:
            if self._held_rgb is None and self._held is not None:
                self._held_rgb = self._displayed(self._held)
            assert self._held_rgb is not None
            self.picked.append(self._held_rgb)

    def _displayed(self, frame: av.VideoFrame) -> np.ndarray:
        turns = quarter_turns(frame)
        if self._size is None:
            return np.rot90(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), turns)
        height, width = self._size if turns % 2 == 0 else self._size[::-1]
        scale = max(height / frame.height, width / frame.width)
        filled = self._reformatter.reformat(
            frame,
            height=max(height, round(frame.height * scale)),
            width=max(width, round(frame.width * scale)),
            format="rgb24",
            interpolation=Interpolation.AREA if scale < 1 else Interpolation.BILINEAR,
            threads=1,
        ).to_ndarray()
        top, left = (filled.shape[0] - height) // 2, (filled.shape[1] - width) // 2
        return np.rot90(filled[top : top + height, left : left + width], turns)


class AudioCollector:
    """Lays decoded audio into a window by its timestamps: one resampler per stretch without gaps.

    ``channels`` is float32 [C, S], zero where there is no sound; C is what the stream declares, and a stretch with another number
    of channels is averaged and given to all of them.
    """

    slack_s = 0.1

    def __init__(self, stream: AudioStream, start_s: float, duration_s: float, sample_rate_hz: int) -> None:
        self.stream, self.sample_rate_hz = stream, sample_rate_hz
        self.channels = np.zeros((max(stream.channels, 1), round(duration_s * sample_rate_hz)), np.float32)
        self.end_s = 0.0
        self.is_done = False
        self.has_run_out = False
        self._start_s, self._window_end_s = start_s, start_s + duration_s
        self._resampler: AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._cursor = 0

    def offer(self, time_s: float, frame: av.AudioFrame) -> None:
        """Take the next frame, whose first sample sounds at ``time_s``."""
        self.is_done = time_s >= self._window_end_s
        length_s = frame.samples / frame.sample_rate
        if self.is_done or time_s + length_s < self._start_s - PREROLL_S:
            return
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or found != self._format or abs(time_s - self.end_s) > RESYNC_S:
            self._flush()
            self._resampler, self._format = AudioResampler(format="fltp", rate=self.sample_rate_hz), found
            self._cursor = round((time_s - self._start_s) * self.sample_rate_hz)
            self.end_s = time_s
        self.end_s += length_s
        frame.pts = None
        self._place(self._resampler.resample(frame))

    def finish(self) -> None:
        """No more frames; ``has_run_out`` says whether the window reaches further than they did."""
        self.has_run_out = not self.is_done
        self._flush()

    def _flush(self) -> None:
        if self._resampler is not None:
            self._place(self._resampler.resample(None))

    def _place(self, resampled: Sequence[av.AudioFrame | None]) -> None:
        for frame in resampled:
            if frame is None:
                continue
            sound = frame.to_ndarray()
            if len(sound) != len(self.channels):
                sound = sound.mean(axis=0, keepdims=True)
            low, high = max(self._cursor, 0), min(self._cursor + sound.shape[1], self.channels.shape[1])
            if low < high:
                self.channels[:, low:high] = sound[:, low - self._cursor : high - self._cursor]
            self._cursor += sound.shape[1]


def quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns from the stored to the displayed picture. Raises MediaError for other angles."""
    turns, rest = divmod(frame.rotation % 360, 90)
    if rest:
        raise MediaError(
            found=f"a picture that is to be displayed turned by {frame.rotation} degrees",
            expected="a multiple of 90 degrees",
            fix="re-encode the file upright: ffmpeg -i FILE upright.mp4",
        )
    return turns
