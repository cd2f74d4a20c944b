"""Frames from which JavisDiT's and Open-Sora's curation compute optical flow: 0, 10, 20 and 30, at 320 × 576 pixels.

Source: the published tool for scores of optical flow, whose threshold for JavisBench is 0.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEIGHT_PX, WIDTH_PX = 320, 576
FRAME_STEP, NUM_FRAMES = 10, 4
TOO_FEW = f"fewer than {FRAME_STEP + 1} frames"
"""Reason for a clip that has only the first of these frames."""


def flow_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Those of frames 0, 10, 20 and 30 that a clip [T, H, W, 3] has: [N, H, W, 3], N ≤ 4."""
    return frames[: FRAME_STEP * NUM_FRAMES : FRAME_STEP]
