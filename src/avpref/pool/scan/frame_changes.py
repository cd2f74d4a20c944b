"""Change from each frame to the next, as detectors of shot cuts measure it. OpenCV and numpy only.

The numbers are those of PySceneDetect's content, adaptive and histogram detectors (B. Castellano, documentation of version 0.7): the mean
absolute difference of hue, saturation and value, in levels of 255 (hue: of 180), and the correlation of the histograms of luma with
128 bins. They are kept for every frame, so that other thresholds need no second decoding.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LUMA_BINS = 128


class FrameChanges:
    """Collects the changes of a sequence of RGB frames [H, W, 3]. The first frame has no change, and a histogram match of 1."""

    def __init__(self) -> None:
        self.hue: list[float] = []
        self.saturation: list[float] = []
        self.luma: list[float] = []
        self.matches: list[float] = []
        self._before: NDArray[np.uint8] | None = None
        self._histogram: NDArray[np.float32] | None = None

    def add(self, frame: NDArray[np.uint8], grey: NDArray[np.uint8]) -> None:
        """Take the next frame and its luma [H, W]."""
        planes = np.stack(cv2.split(cv2.cvtColor(frame, cv2.COLOR_RGB2HSV))).astype(np.uint8, copy=False)
        histogram = cv2.calcHist([grey], [0], None, [LUMA_BINS], [0, 256]).astype(np.float32)
        if self._before is None or self._histogram is None:
            changes, match = (0.0, 0.0, 0.0), 1.0
        else:
            pairs = zip(planes, self._before, strict=True)
            changes = tuple(float(cv2.mean(cv2.absdiff(new, old))[0]) for new, old in pairs)  # type: ignore[assignment]
            match = float(cv2.compareHist(self._histogram, histogram, cv2.HISTCMP_CORREL))
        for values, value in zip((self.hue, self.saturation, self.luma), changes, strict=True):
            values.append(value)
        self.matches.append(match)
        self._before, self._histogram = planes, histogram
