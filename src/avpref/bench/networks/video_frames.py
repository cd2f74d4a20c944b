"""Frames as JavisBench's FVD sees them: spread over the clip, fitted into a square with black bars, and shifted in range.

Its data set maps values of [0, 1] as if they lay in [-1, 1], so that the network sees [0, 1] instead of the range of its training.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avpref.models.features.clip_pictures import spread_frames
from avpref.models.features.i3d import SIDE_PX

FvdRange = Literal["published", "full"]
"""``published``: values of about [0, 1]; ``full``: [-1, 1], the range that the network was trained with."""


def letterboxed(frame: NDArray[np.uint8]) -> Tensor:
    """RGB uint8 [H, W, 3] → float32 [3, 224, 224] in [0, 1]: long side to 224 (bilinear with antialiasing), black bars around."""
    height, width = frame.shape[:2]
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255
    long = max(height, width)
    size = (int(SIDE_PX * height / long), int(SIDE_PX * width / long))
    if size != (height, width):
        pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (SIDE_PX - size[0]) // 2, (SIDE_PX - size[1]) // 2
    return functional.pad(pixels[0], (left, SIDE_PX - size[1] - left, top, SIDE_PX - size[0] - top))


def in_bytes(pixels: Tensor, value_range: FvdRange) -> Tensor:
    """Values of [0, 1] as uint8: as published 127 to 255, in the full range 0 to 255."""
    scaled = torch.floor((pixels + 1) * 127.5) if value_range == "published" else torch.round(pixels * 255)
    return scaled.clamp(0, 255).to(torch.uint8)


def fvd_input(frames: NDArray[np.uint8], num_frames: int, value_range: FvdRange) -> Tensor:
    """Frames uint8 [T, H, W, 3] → network input float32 [3, ``num_frames``, 224, 224]; each distinct frame is fitted once."""
    indices = spread_frames(len(frames), num_frames)
    distinct, uses = np.unique(indices, return_inverse=True)
    fitted = torch.stack([in_bytes(letterboxed(frames[index]), value_range) for index in distinct])
    return ((fitted.float() / 255 - 0.5) * 2)[torch.from_numpy(uses)].permute(1, 0, 2, 3)
