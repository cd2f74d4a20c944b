"""Select the pictures of a window from decoded frames by timestamp, and convert them to RGB as they are shown.

PyAV and numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.container import Container
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avpref.errors import MediaError
from avpref.media.fixes import transcode_command
from avpref.media.frame_times import length_s
from avpref.media.geometry import PictureSize
from avpref.media.picture.display import (
    Orientation,
    has_wide_primaries,
    hdr_curve,
    hdr_error,
    matrix,
    orientation,
    shown_size,
)
from avpref.media.picture.tone_mapping import tone_mapped
from avpref.media.reading_rules import DEFAULT_READING, HdrHandling, ReadingRules

FRAME_SLACK_S = 0.0015
"""Tolerance in seconds for a frame that starts after its output time, because containers round timestamps to milliseconds. It is no
whole number of them, so that the rounding of binary fractions decides nothing."""


class FramePicker:
    """Selects the frame that is shown at each output time and keeps it as RGB, in one array for all of them.

    ``end_s`` is the end of the frames received so far; ``step_s`` is the usual length of a frame.
    """

    def __init__(
        self, stream: VideoStream, times_s: Sequence[float], converter: PictureConverter, step_s: float
    ) -> None:
        self.stream = stream
        self.slack_s = step_s
        self.num_picked = 0
        self.end_s = 0.0
        self.has_run_out = False
        self._times_s = times_s
        self._converter = converter
        self._pictures: NDArray[np.uint8] | None = None
        self._current: av.VideoFrame | None = None
        self._current_index: int | None = None

    @property
    def is_done(self) -> bool:
        """Whether every output time has its frame."""
        return self.num_picked == len(self._times_s)

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """The pictures so far, uint8 [T, H, W, 3] RGB; only after one was picked."""
        assert self._pictures is not None, "no picture was picked"
        return self._pictures[: self.num_picked]

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """Take the next frame, shown from ``time_s`` on. The first frame also serves earlier output times."""
        if self._current is not None:
            self._pick_until(time_s - FRAME_SLACK_S)
        self._current, self._current_index = frame, None
        self.end_s = time_s + length_s(frame, self.slack_s)

    def finish(self) -> None:
        """End of the stream: the last frame serves the remaining output times; ``has_run_out`` is true if there were any."""
        self.has_run_out = not self.is_done
        if self._current is not None:
            self._pick_until(float("inf"))

    def _pick_until(self, time_s: float) -> None:
        while not self.is_done and self._times_s[self.num_picked] < time_s:
            assert self._current is not None
            if self._current_index is None or self._pictures is None:
                picture = self._converter.shown(self._current)
                if self._pictures is None:
                    self._pictures = np.empty((len(self._times_s), *picture.shape), np.uint8)
                require_one_size(self.stream.container, self._pictures[0], picture)
                self._pictures[self.num_picked] = picture
                self._current_index = self.num_picked
            else:
                self._pictures[self.num_picked] = self._pictures[self._current_index]
            self.num_picked += 1


def require_one_size(container: Container, first: NDArray[np.uint8], picture: NDArray[np.uint8]) -> None:
    """Raises MediaError if ``picture`` [H, W, 3] has another size than the ``first`` one."""
    if picture.shape != first.shape:
        (height, width), (new_height, new_width) = first.shape[:2], picture.shape[:2]
        raise MediaError(
            found=f"{Path(container.name).name}: the size of its picture changes from {width} x {height} to {new_width} x {new_height}",
            expected="pictures of one size",
            fix=f"{transcode_command(container, f'scale={width}:{height}')}, or remove its row",
        )


class PictureConverter:
    """Converts decoded frames of ``stream`` to RGB as they are shown, ``num_pictures`` of which are kept at ``size``.

    Raises MediaError from :meth:`shown` for high dynamic range where ``rules`` refuse it.
    """

    def __init__(
        self, stream: VideoStream, size: PictureSize, num_pictures: int, rules: ReadingRules = DEFAULT_READING
    ) -> None:
        self._stream, self._size, self._num_pictures, self._rules = stream, size, num_pictures, rules
        self._reformatter = VideoReformatter()
        self._orientations: dict[int, Orientation] = {}

    def shown(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """The picture uint8 [H, W, 3], which may be a view of another array."""
        turned = self._orientation(frame)
        shown = shown_size(self._stream, frame)
        upright = shown[::-1] if turned.is_transposed else shown
        filled, cropped = self._size.filled(*upright, self._num_pictures)
        if turned.is_transposed:
            filled, cropped = filled[::-1], cropped[::-1]
        pixels = self._scaled(frame, *filled)
        y, x = (filled[0] - cropped[0]) // 2, (filled[1] - cropped[1]) // 2
        return turned.apply(pixels[y : y + cropped[0], x : x + cropped[1]])

    def _orientation(self, frame: av.VideoFrame) -> Orientation:
        """The frame's orientation; its display matrix is read once per angle.

        A frame whose side data was read refers to itself, so it stays in memory until Python collects such cycles.
        """
        if frame.rotation not in self._orientations:
            self._orientations[frame.rotation] = orientation(self._stream, frame)
        return self._orientations[frame.rotation]

    def _scaled(self, frame: av.VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
        """The stored picture at another size, in the colours of BT.709."""
        shrinks = height * width < frame.height * frame.width
        curve = hdr_curve(frame)
        if curve and self._rules.hdr is HdrHandling.REFUSE:
            raise hdr_error(self._stream.container.name, curve)
        pixels = self._reformatter.reformat(
            frame,
            height=height,
            width=width,
            format="rgb48le" if curve else "rgb24",
            src_colorspace=matrix(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA if shrinks else Interpolation.BILINEAR,
            threads=1,
        ).to_ndarray()
        if curve:
            return tone_mapped(pixels.astype(np.uint16, copy=False), curve, has_wide_primaries(frame))
        return pixels.astype(np.uint8, copy=False)
