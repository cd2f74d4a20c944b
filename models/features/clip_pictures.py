"""Pictures as CLIP sees them in JavisBench's CLIP score."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIDE_PX = 224
NUM_FRAMES = 48
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
ChannelOrder = Literal["bgr", "rgb"]


def spread_frames(num_frames: int, num_wanted: int) -> NDArray[np.int64]:
    """``num_wanted`` indices from the first to the last of ``num_frames``, evenly spaced in float32 and rounded; repeats are allowed."""
    return np.round(np.linspace(0, num_frames - 1, num_wanted, dtype=np.float32)).astype(np.int64)


def cropped(frame: NDArray[np.uint8], order: ChannelOrder) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] → uint8 [224, 224, 3] in ``order``: bicubic to a short side of 224, then the middle.

    JavisBench swaps red and blue of pictures that are RGB already: ``bgr`` gives its published numbers.
    """
    picture = Image.fromarray(np.ascontiguousarray(frame[..., ::-1] if order == "bgr" else frame))
    width, height = picture.size
    short = min(width, height)
    size = (SIDE_PX * width // short, SIDE_PX * height // short)
    resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    top, left = (round((side - SIDE_PX) / 2) for side in (size[1], size[0]))
    return resized[top : top + SIDE_PX, left : left + SIDE_PX]


def network_input(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, 224, 224, 3] → normalised float32 [B, 3, 224, 224]; mean and deviation are those of RGB in either order."""
    return normalised_pixels(torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255)


def normalised_pixels(pixels: Tensor) -> Tensor:
    """Pixels [..., 3, H, W] in [0, 1] → the same, normalised by CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std
