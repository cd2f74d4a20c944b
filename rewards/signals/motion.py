"""Motion of the picture: grey frames, dense optical flow, mean flow magnitude per frame.

The flow is Farnebäck's (G. Farnebäck, "Two-Frame Motion Estimation Based on Polynomial Expansion", 2003; OpenCV's
``calcOpticalFlowFarneback``) with the parameters of the published AV-Align score.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

PYRAMID_SCALE, LEVELS, WINDOW_PX, ITERATIONS, POLY_PX, POLY_SIGMA = 0.5, 3, 15, 3, 5, 1.2
SMALL_SIDE_PX = 32
FASTEST_SHARE = 0.1


def grey_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma [T, H, W] uint8 of RGB frames [T, H, W, 3] uint8 (Rec. 601 weights, OpenCV's fixed-point rounding)."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def flow_fields(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flow [T − 1, H, W, 2] in pixels (x, y) from each grey frame [T, H, W] to the next. Raises ValueError for fewer than two frames."""
    if len(grey) < 2:
        raise ValueError(f"flow needs two frames or more, found {len(grey)}")
    return np.stack([_flow(first, second) for first, second in pairwise(grey)])


def _flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    start = np.zeros((*first.shape, 2), np.float32)
    flow = cv2.calcOpticalFlowFarneback(
        first, second, start, PYRAMID_SCALE, LEVELS, WINDOW_PX, ITERATIONS, POLY_PX, POLY_SIGMA, 0
    )
    return np.asarray(flow, np.float32)


def motion_px(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean flow magnitude [T] in pixels of RGB frames [T, H, W, 3].

    Element i is that of the flow from frame i − 1 to frame i; element 0 repeats element 1. One flow field is in memory at a
    time. Raises ValueError for fewer than two frames.
    """
    if len(frames) < 2:
        raise ValueError(f"motion needs two frames or more, found {len(frames)}")
    grey = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
    lengths: list[float] = []
    for frame in frames[1:]:
        following = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        flow = _flow(grey, following)
        lengths.append(float(np.mean(np.hypot(flow[..., 0], flow[..., 1]))))
        grey = following
    return np.array([lengths[0], *lengths], np.float64)


def local_maxima(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the values that are strictly larger than both neighbours; the ends and plateaus are excluded."""
    inner = values[1:-1]
    return np.flatnonzero((inner > values[:-2]) & (inner > values[2:])) + 1


def small_flow(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flow [T − 1, h, w, 2] of RGB frames [T, H, W, 3] after shrinking (area average) to a short side of 32 pixels: 0.15 ms per pair.

    The unit is pixels of the small picture, so the flow does not depend on the clip's resolution. Raises ValueError for fewer
    than two frames.
    """
    height, width = frames.shape[1:3]
    scale = SMALL_SIDE_PX / min(height, width)
    size = (max(SMALL_SIDE_PX, round(width * scale)), max(SMALL_SIDE_PX, round(height * scale)))
    return flow_fields(np.stack([cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in grey_frames(frames)]))


def fastest_share_px(flow: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean magnitude [T − 1] in pixels of the fastest tenth of each flow field [T − 1, h, w, 2].

    Sound sources are mostly small in the picture; the mean over the whole picture follows the camera instead.
    """
    lengths = np.hypot(flow[..., 0], flow[..., 1]).reshape(len(flow), -1)
    slowest = lengths.shape[1] - max(1, round(lengths.shape[1] * FASTEST_SHARE))
    return np.partition(lengths, slowest, axis=1)[:, slowest:].mean(axis=1).astype(np.float64)
