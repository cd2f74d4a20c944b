"""Frames for reward models: resampled to another frame rate, resized to a short side, and centre-cropped."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

MAX_DENOMINATOR = 100_000
"""Largest denominator of a frame rate. Rates are ratios of small integers (30000/1001) stored as floats; this recovers them."""


def indices_at_rate(num_frames: int, fps_hz: float, to_hz: float) -> NDArray[np.int64]:
    """For each frame of a video resampled to ``to_hz``, the index of its source frame: int64 [round(num_frames·to/fps)].

    The source has ``num_frames`` frames at ``fps_hz``. As in FFmpeg's ``fps`` filter, frame i starts at slot round(i·to/fps), halves
    rounded up, and lasts until the next one starts; if several start at one slot, the last one is used. Computed in exact
    fractions. Raises ValueError for no frames or for a rate that is not positive.
    """
    if num_frames < 1 or not fps_hz > 0 or not to_hz > 0:
        raise ValueError(f"needs frames and positive rates, found {num_frames} at {fps_hz} Hz, wanted {to_hz} Hz")
    ratio = Fraction(to_hz).limit_denominator(MAX_DENOMINATOR) / Fraction(fps_hz).limit_denominator(MAX_DENOMINATOR)
    starts = [_round_half_up(index * ratio) for index in range(num_frames + 1)]
    slots = np.arange(starts[-1])
    return np.searchsorted(starts[:-1], slots, side="right") - 1


def _round_half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def square_frames(frames: NDArray[np.uint8], indices: NDArray[np.int64], side_px: int) -> Tensor:
    """Frames number ``indices`` [N] of RGB uint8 [T, H, W, 3] as squares: uint8 [N, side, side, 3].

    Equal to torchvision's v2 Resize and CenterCrop, pixel for pixel: the shorter side is resized to ``side_px`` (bicubic with
    antialiasing in bytes, the longer side rounded down), then the centre is cropped (offset rounded half to even). A frame
    that occurs several times is resized once; one frame at a time is in memory as a tensor.
    """
    distinct, positions = np.unique(indices, return_inverse=True)
    squares = [_square(torch.tensor(np.ascontiguousarray(frames[index])), side_px) for index in distinct]
    return torch.stack(squares)[torch.from_numpy(positions)]


def _square(frame: Tensor, side_px: int) -> Tensor:
    """One frame uint8 [H, W, 3] as uint8 [side, side, 3]."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (side_px * height // short, side_px * width // short)
    planes = frame.permute(2, 0, 1)[None]
    if size != (height, width):
        planes = functional.interpolate(planes, size, mode="bicubic", antialias=True)
    top, left = (round((length - side_px) / 2) for length in size)
    return planes[0, :, top : top + side_px, left : left + side_px].permute(1, 2, 0)
