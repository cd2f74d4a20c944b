"""Shapes of clips in pixels, frames, samples and seconds."""

from __future__ import annotations

from dataclasses import dataclass


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


def window_starts_s(duration_s: float, window_s: float) -> tuple[float, ...]:
    """Starts in seconds of the non-overlapping windows of ``window_s`` seconds in a recording of ``duration_s`` seconds.

    A recording up to 1 % of a window shorter than a whole number of windows (container rounding) still gives all of them.
    """
    count = int(duration_s / window_s + 0.01)
    return tuple(index * window_s for index in range(count))
