"""Select and convert the pictures of a window from decoded frames by timestamp. PyAV and numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from avpref.errors import MediaError

FRAME_SLACK_S = 0.001
"""Tolerance in seconds for a frame that starts after its output time, because containers round timestamps."""


class FramePicker:
    """Selects the frame that is shown at each output time.

    ``picked`` holds uint8 [H, W, 3] RGB arrays; ``size`` is (H, W) after filling and centre cropping, or None for the
    original size. ``end_s`` is the end of the frames received so far; ``step_s`` is the usual length of a frame.
    """

    def __init__(
        self, stream: VideoStream, times_s: Sequence[float], size: tuple[int, int] | None, step_s: float
    ) -> None:
        self.stream = stream
        self.slack_s = step_s
        self.picked: list[np.ndarray] = []
        self.end_s = 0.0
        self.has_run_out = False
        self._times_s, self._size = times_s, size
        self._reformatter = VideoReformatter()
        self._current: av.VideoFrame | None = None
        self._current_rgb: np.ndarray | None = None

    @property
    def is_done(self) -> bool:
        """Whether every output time has its frame."""
        return len(self.picked) == len(self._times_s)

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """Take the next frame, shown from ``time_s`` on. The first frame also serves earlier output times."""
        if self._current is not None:
            self._pick_until(time_s - FRAME_SLACK_S)
        self._current, self._current_rgb = frame, None
        length_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else self.slack_s
        self.end_s = time_s + length_s

    def finish(self) -> None:
        """End of the stream: the last frame serves the remaining output times; ``has_run_out`` is true if there were any."""
        self.has_run_out = not self.is_done
        if self._current is not None:
            self._pick_until(float("inf"))

    def _pick_until(self, time_s: float) -> None:
        while not self.is_done and self._times_s[len(self.picked)] < time_s:
            if self._current_rgb is None and self._current is not None:
                self._current_rgb = self._displayed(self._current)
            assert self._current_rgb is not None
            self.picked.append(self._current_rgb)

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
        y, x = (filled.shape[0] - height) // 2, (filled.shape[1] - width) // 2
        return np.rot90(filled[y : y + height, x : x + width], turns)


def quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns from the stored to the displayed picture. Raises MediaError for other angles."""
    turns, remainder = divmod(frame.rotation % 360, 90)
    if remainder:
        raise MediaError(
            found=f"a picture that is to be displayed turned by {frame.rotation} degrees",
            expected="a multiple of 90 degrees",
            fix="re-encode the file upright: ffmpeg -i FILE upright.mp4",
        )
    return turns
