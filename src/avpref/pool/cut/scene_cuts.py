"""Cuts of a recording from the changes between its frames. numpy only.

``adaptive``, ``content`` and ``histogram`` are the detectors of PySceneDetect with its published defaults (B. Castellano, documentation of
version 0.7), computed from the kept changes, so another threshold decodes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW = 2
"""Frames on either side of one whose change the adaptive detector compares it with."""
MIN_CONTENT = 15.0
"""Least change of a cut of the adaptive detector, in levels."""
MAX_RATIO = 255.0
NO_CHANGE = 1e-5


@dataclass(frozen=True, eq=False)
class Changes:
    """Changes [T] of hue, saturation and luma from the frame before, and the match of histograms; see
    :mod:`avpref.pool.scan.frame_changes`."""

    hue: Floats
    saturation: Floats
    luma: Floats
    matches: Floats

    @property
    def content(self) -> Floats:
        """The content value [T]: the mean of the three changes."""
        return (self.hue + self.saturation + self.luma) / 3.0


def adaptive_ratios(content: Floats) -> Floats:
    """Each content value over the mean of the two before and the two after it, [T], at most 255.

    Where these are zero it is 255 if the value is a cut by itself, else 0. It is 0 at the first and the last two frames.
    """
    ratios = np.zeros(len(content))
    if len(content) < 2 * WINDOW + 1:
        return ratios
    windows = np.lib.stride_tricks.sliding_window_view(content, 2 * WINDOW + 1)
    middle = windows[:, WINDOW]
    around = (windows.sum(axis=1) - middle) / (2 * WINDOW)
    is_zero = np.abs(around) < NO_CHANGE
    quotient = np.minimum(middle / np.where(is_zero, 1.0, around), MAX_RATIO)
    ratios[WINDOW:-WINDOW] = np.where(is_zero, np.where(middle >= MIN_CONTENT, MAX_RATIO, 0.0), quotient)
    return ratios


def cuts_of(detector: str, changes: Changes, threshold: float, min_frames: int) -> list[int]:
    """The frames that begin a scene, the first frame of the recording excluded; cuts are ``min_frames`` or more apart."""
    match detector:
        case "adaptive":
            is_cut = (adaptive_ratios(changes.content) >= threshold) & (changes.content >= MIN_CONTENT)
        case "content":
            is_cut = changes.content >= threshold
        case "histogram":
            is_cut = changes.matches <= max(0.0, min(1.0, 1.0 - threshold))
        case _:
            return []
    return spaced(np.flatnonzero(is_cut), min_frames)


def cuts_after(probabilities: Floats, threshold: float, min_frames: int) -> list[int]:
    """The frames that begin a scene, from the probability [T] that a transition follows each frame.

    A run of frames above ``threshold`` is one transition; the scene begins at the frame after its last one.
    """
    is_transition = np.concatenate([probabilities > threshold, [False]])
    ends = np.flatnonzero(is_transition[:-1] & ~is_transition[1:]) + 1
    return spaced(ends[ends < len(probabilities)], min_frames)


def spaced(frames: NDArray[np.int_], min_frames: int) -> list[int]:
    """Those of the ascending ``frames`` that are ``min_frames`` or more after the start and after the one before."""
    kept: list[int] = []
    last = 0
    for frame in frames.tolist():
        if frame - last >= min_frames:
            kept.append(frame)
            last = frame
    return kept
