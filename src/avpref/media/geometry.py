"""Shapes of clips in pixels, frames, samples and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

RGB_BYTES = 3
"""Bytes of a pixel."""


@dataclass(frozen=True)
class ClipShape:
    """Shape of the clips of a model: frames, pixels and rates.

    Raises ValueError for a size that is not positive.
    """

    num_frames: int
    height_px: int
    width_px: int
    fps_hz: float
    sample_rate_hz: int

    def __post_init__(self) -> None:
        if min(self.num_frames, self.height_px, self.width_px, self.fps_hz, self.sample_rate_hz) <= 0:
            raise ValueError(f"every size of a clip must be positive, found {self}")

    @property
    def duration_s(self) -> float:
        """Length of the clip in seconds."""
        return self.num_frames / self.fps_hz

    @property
    def num_samples(self) -> int:
        """Audio samples per channel in the clip's length."""
        return round(self.duration_s * self.sample_rate_hz)


def nearest_shape(shapes: Sequence[ClipShape], height_px: int, width_px: int, duration_s: float) -> ClipShape:
    """The shape nearest to a recording: the smallest sum of squared logarithms of the ratios of aspect, pixels and length.

    Shapes that are longer than the recording by more than 1 % (rounding of containers) take no part, unless all are. Of equally near
    shapes the first.
    """

    def distance(shape: ClipShape) -> float:
        ratios = (
            shape.height_px / shape.width_px / (height_px / width_px),
            shape.height_px * shape.width_px / (height_px * width_px),
            shape.duration_s / duration_s,
        )
        return sum(math.log(ratio) ** 2 for ratio in ratios)

    fitting = [shape for shape in shapes if shape.duration_s <= 1.01 * duration_s]
    return min(fitting or shapes, key=distance)


def window_starts_s(duration_s: float, window_s: float) -> tuple[float, ...]:
    """Starts in seconds of the non-overlapping windows of ``window_s`` seconds in a recording of ``duration_s`` seconds.

    A recording up to 1 % of a window shorter than a whole number of windows (container rounding) still gives all of them.
    """
    count = int(duration_s / window_s + 0.01)
    return tuple(index * window_s for index in range(count))


class PictureSize(Protocol):
    """How large the pictures of a window are kept."""

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sizes (H, W) to which a shown picture is resized and then centre-cropped, for a window of ``num_pictures``."""
        ...


@dataclass(frozen=True)
class OwnSize:
    """The size of the recording."""

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """See :class:`PictureSize`."""
        return (height_px, width_px), (height_px, width_px)


OWN_SIZE = OwnSize()


@dataclass(frozen=True)
class FilledSize:
    """``height_px`` x ``width_px``: filled by the picture, which keeps its aspect ratio, and cropped."""

    height_px: int
    width_px: int

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """See :class:`PictureSize`."""
        scale = max(self.height_px / height_px, self.width_px / width_px)
        resized = max(self.height_px, round(height_px * scale)), max(self.width_px, round(width_px * scale))
        return resized, (self.height_px, self.width_px)


@dataclass(frozen=True)
class BoundedSize:
    """The size of the recording where all pictures of the window fit into ``max_bytes``; otherwise smaller.

    Smaller pictures have ``min_pixels`` pixels and a short side of ``min_side_px``, whichever is larger, and are never enlarged.
    """

    max_bytes: int
    min_pixels: int
    min_side_px: int

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """See :class:`PictureSize`."""
        size = height_px, width_px
        if num_pictures * height_px * width_px * RGB_BYTES > self.max_bytes:
            needed = max(math.sqrt(self.min_pixels / (height_px * width_px)), self.min_side_px / min(size))
            if needed < 1:
                size = math.ceil(height_px * needed), math.ceil(width_px * needed)
        return size, size
