"""A descriptor of a clip without weights, for quotas by clusters and for diversity: colours, motion and spectrum.

It has 48 mean colours on a grid of 4 × 4, 48 mean changes from frame to frame on the same grid, and the levels of 24 mel bands; each of
the three parts has unit length. It tells scenes and sounds apart, not what they mean: with ImageBind among the measures, its
embeddings serve better.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from avpref.media.reading import DecodedClip
from avpref.rewards.signals.onsets import decibels, mel_power

VERSION = 1
NAME = "descriptor"
GRID, NUM_BANDS, NUM_FRAMES = 4, 24, 16


def descriptor(clip: DecodedClip) -> NDArray[np.float64]:
    """The descriptor [120] of a clip; a part that the clip lacks is zero."""
    return np.concatenate([*_picture(clip), _sound(clip)])


def _picture(clip: DecodedClip) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = GRID * GRID * 3
    if clip.frames is None:
        return np.zeros(size), np.zeros(size)
    chosen = np.linspace(0, len(clip.frames) - 1, min(NUM_FRAMES, len(clip.frames))).round().astype(int)
    grids = np.stack([_grid(clip.frames[index]) for index in chosen])
    changes = np.abs(np.diff(grids, axis=0)).mean(axis=0) if len(grids) > 1 else np.zeros(size)
    return _unit(grids.mean(axis=0) - 127.5), _unit(changes)


def _grid(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    return cv2.resize(frame, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float64).reshape(-1)


def _sound(clip: DecodedClip) -> NDArray[np.float64]:
    if clip.audio is None or not np.any(clip.audio):
        return np.zeros(NUM_BANDS)
    power = mel_power(clip.audio, clip.sample_rate_hz).mean(axis=1)
    bands = np.add.reduceat(power, np.linspace(0, len(power), NUM_BANDS, endpoint=False).astype(int))
    levels = decibels(bands.astype(np.float32)).astype(np.float64)
    return _unit(levels - levels.mean())


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector
