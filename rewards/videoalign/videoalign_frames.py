"""The visual input of VideoAlign: sampled frames, resized and split into patches.

The rules are those of the loader that VideoAlign was trained with (its ``vision_process.py``, itself from Qwen-VL's tools):
about two frames per second including the first and the last; height and width are multiples of 28 pixels, with an area between a
minimum and a maximum. Small pictures are enlarged to the minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avpref.models.features.clip_pictures import PIXEL_MEAN as MEAN
from avpref.models.features.clip_pictures import PIXEL_STD as STD

MAX_ASPECT = 200
PATCH_PX = 14
MERGED = 2
PAIRED = 2
"""Patches are 14 x 14 pixels of 2 frames; the network merges 2 x 2 of them into one token."""


@dataclass(frozen=True)
class FrameRules:
    """Limits of the number and size of the sampled frames; the defaults are the published model's."""

    target_fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    frame_multiple: int = 2
    size_multiple: int = 28
    min_pixels: int = 100_352
    max_pixels: int = 200_704


def frame_indices(num_frames: int, fps_hz: float, rules: FrameRules) -> tuple[int, ...]:
    """Indices of the frames to sample: an even number of them, evenly spaced, including the first and the last.

    Halves round to even, both for the count and for the indices, which are computed in float32 as in the original. Raises
    ValueError for fewer frames than ``rules.frame_multiple`` or a frame rate that is not positive.
    """
    multiple = rules.frame_multiple
    if num_frames < multiple or not fps_hz > 0:
        raise ValueError(f"{num_frames} frames at {fps_hz:g} Hz; at least {multiple} are needed")
    largest = min(rules.max_frames, num_frames) // multiple * multiple
    smallest = math.ceil(rules.min_frames / multiple) * multiple
    target = min(max(num_frames / fps_hz * rules.target_fps, smallest), largest)
    count = round(target / multiple) * multiple
    return tuple(torch.linspace(0, num_frames - 1, count).round().long().tolist())


def resized_size(height_px: int, width_px: int, rules: FrameRules) -> tuple[int, int]:
    """Height and width after resizing: multiples of 28 pixels, about the picture's aspect ratio, an area within the limits.

    Raises ValueError if one side is more than 200 times as long as the other.
    """
    if max(height_px, width_px) > MAX_ASPECT * min(height_px, width_px):
        raise ValueError(f"a picture of {width_px}x{height_px}; its sides may differ {MAX_ASPECT}-fold at most")
    unit = rules.size_multiple
    height, width = (max(unit, round(side / unit) * unit) for side in (height_px, width_px))
    area = height_px * width_px
    if height * width > rules.max_pixels:
        shrink = math.sqrt(area / rules.max_pixels)
        return math.floor(height_px / shrink / unit) * unit, math.floor(width_px / shrink / unit) * unit
    if height * width < rules.min_pixels:
        grow = math.sqrt(rules.min_pixels / area)
        return math.ceil(height_px * grow / unit) * unit, math.ceil(width_px * grow / unit) * unit
    return height, width


def sample_frames(frames: NDArray[np.uint8], fps_hz: float, rules: FrameRules) -> Tensor:
    """Sample and resize a clip's frames: uint8 [T, H, W, 3] to uint8 [N, h, w, 3].

    Raises ValueError as :func:`frame_indices` and :func:`resized_size` do.
    """
    indices = frame_indices(len(frames), fps_hz, rules)
    size = resized_size(frames.shape[1], frames.shape[2], rules)
    return torch.stack([_resized(frames[index], size) for index in indices])


def _resized(frame: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """[H, W, 3] uint8 to [h, w, 3] uint8: bicubic with antialiasing in float32, rounded once at the end."""
    planes = torch.from_numpy(np.array(frame, dtype=np.float32)).permute(2, 0, 1)[None]
    fine = functional.interpolate(planes, size=size, mode="bicubic", antialias=True, align_corners=False)
    return fine[0].clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def patch_grid(frames: Tensor) -> tuple[int, int, int]:
    """Numbers of frame pairs, patch rows and patch columns of frames [N, h, w, 3]."""
    return len(frames) // PAIRED, frames.shape[1] // PATCH_PX, frames.shape[2] // PATCH_PX


def num_tokens(frames: Tensor) -> int:
    """Number of tokens of frames [N, h, w, 3] in the network."""
    return math.prod(patch_grid(frames)) // MERGED**2


def patches(frames: Tensor) -> Tensor:
    """Normalised patches [P, 1176] float32 of frames [N, h, w, 3] uint8, on their device.

    A row is ordered by (channel, frame, y, x); rows are ordered by frame pair, then by block of 2 x 2 patches, then in a block.
    """
    pairs, rows, columns = patch_grid(frames)
    mean, std = (torch.tensor(constants, device=frames.device) for constants in (MEAN, STD))
    values = (frames.float() / 255.0 - mean) / std
    split = values.view(pairs, PAIRED, rows // MERGED, MERGED, PATCH_PX, columns // MERGED, MERGED, PATCH_PX, len(MEAN))
    ordered = split.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return ordered.reshape(pairs * rows * columns, len(MEAN) * PAIRED * PATCH_PX**2)
