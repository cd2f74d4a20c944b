"""Frames of a clip that scorers of single pictures look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread_frames(frames: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """At most ``number`` of frames [T, H, W, 3], from the middles of as many equal parts of the clip: [min(T, number), H, W, 3]."""
    count = min(len(frames), number)
    return frames[[int((2 * part + 1) * len(frames) / (2 * count)) for part in range(count)]]
