"""From the cuts of a recording to its clips: ranges of frames in which picture and sound both exist."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from avpref.config.pool.pool_settings import CutSettings

TOLERANCE_S = 1e-3
"""Containers round times to milliseconds."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """Times [T] of a recording's frames in seconds, the end of the picture, and the range that has sound."""

    times_s: NDArray[np.float64]
    end_s: float
    sound_start_s: float = 0.0
    sound_end_s: float = math.inf

    def start_of(self, frame: int) -> float:
        """When ``frame`` begins to be shown; for the frame after the last one, the end of the picture."""
        return float(self.times_s[frame]) if frame < len(self.times_s) else self.end_s

    @property
    def common(self) -> tuple[int, int]:
        """The first frame from which there is sound, and the first one that is shown after the sound has ended."""
        first = int(np.searchsorted(self.times_s, self.sound_start_s - TOLERANCE_S))
        ends = np.append(self.times_s[1:], self.end_s)
        return first, int(np.searchsorted(ends, self.sound_end_s + TOLERANCE_S))


@dataclass(frozen=True)
class FrameRange:
    """A part of scene number ``scene``: frames ``first`` to ``end`` (exclusive). A part that is no clip has the ``reason``."""

    scene: int
    part: int
    first: int
    end: int
    start_s: float
    end_s: float
    reason: str = ""


def clip_ranges(timeline: Timeline, cuts: Sequence[int], settings: CutSettings) -> list[FrameRange]:
    """The clips of a recording, and the ranges that are none, with the reason; together they cover every frame but margins at cuts."""
    first, end = timeline.common
    total = len(timeline.times_s)
    ranges: list[FrameRange] = []
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, total], strict=True)):
        begin = start + (settings.margin_frames if number else 0)
        finish = stop - (settings.margin_frames if stop < total else 0)
        low, high = max(begin, first), min(finish, end)
        ranges += _silent(timeline, number, begin, min(finish, first))
        if low < high:
            ranges += _parts(timeline, number, (low, high), settings)
        ranges += _silent(timeline, number, max(begin, end), finish)
    return ranges


def _silent(timeline: Timeline, scene: int, first: int, end: int) -> Iterator[FrameRange]:
    """The part of a scene before the sound begins or after it ends."""
    if first < end:
        reason = "the recording has no sound here"
        yield FrameRange(scene, -1, first, end, timeline.start_of(first), timeline.start_of(end), reason)


def _parts(timeline: Timeline, scene: int, frames: tuple[int, int], settings: CutSettings) -> Iterator[FrameRange]:
    start_s, end_s = timeline.start_of(frames[0]), timeline.start_of(frames[1])
    bounds = (
        _strides(start_s, end_s, settings) if settings.clips == "stride" else _equal(start_s, end_s, settings.max_s)
    )
    for part, (low_s, high_s) in enumerate(bounds):
        first = max(frames[0], int(np.searchsorted(timeline.times_s, low_s - TOLERANCE_S)))
        end = min(frames[1], int(np.searchsorted(timeline.times_s, high_s - TOLERANCE_S)))
        if first >= end:
            continue
        begin_s, finish_s = timeline.start_of(first), timeline.start_of(end)
        length_s = finish_s - begin_s
        reason = (
            f"{length_s:.3f} s, shorter than {settings.min_s:g} s" if length_s < settings.min_s - TOLERANCE_S else ""
        )
        yield FrameRange(scene, part, first, end, begin_s, finish_s, reason)


def _equal(start_s: float, end_s: float, max_s: float) -> list[tuple[float, float]]:
    """Equal parts of at most ``max_s`` seconds."""
    count = max(1, math.ceil((end_s - start_s - TOLERANCE_S) / max_s))
    edges = np.linspace(start_s, end_s, count + 1).tolist()
    return list(pairwise(edges))


def _strides(start_s: float, end_s: float, settings: CutSettings) -> list[tuple[float, float]]:
    """Parts of ``max_s`` seconds, one every ``stride_s``; the last one may be shorter, and ends with the scene."""
    stride_s = settings.stride_s or settings.max_s
    parts = []
    low_s = start_s
    while low_s < end_s - TOLERANCE_S:
        parts.append((low_s, min(low_s + settings.max_s, end_s)))
        if parts[-1][1] >= end_s - TOLERANCE_S:
            break
        low_s += stride_s
    return parts
