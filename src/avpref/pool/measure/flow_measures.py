"""Optical flow of a clip as JavisDiT's curation samples it, computed by Farnebäck's method instead of a network.

Frames 0, 10, 20 and 30 are resized to 320 × 576 pixels (upright ones are transposed); the number is the mean magnitude of the components
of the flow between consecutive ones, in pixels of that size. Smaller frames are not enlarged, because the method sees no motion in
smooth pictures; their flow is scaled instead. The published tool computes it with UniMatch, as the scorer ``optical_flow`` does with a
file of weights; numbers of both methods differ, their order is alike for motion that both follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from avpref.domain import OWN_TERMS, PICTURE, Dimension, Metric, Score
from avpref.identity import digest
from avpref.rewards.libraries.flow_sampling import HEIGHT_PX, TOO_FEW, WIDTH_PX, flow_frames
from avpref.rewards.protocol import ScorableClip, measured, skipped
from avpref.rewards.signals.motion import flow_fields

VERSION = 1
METRICS = (Metric("flow_px", "px between frames 10 apart", True, Dimension.VIDEO, PICTURE),)


class FlowMeasures:
    """Fills ``flow_px``; see :class:`avpref.rewards.protocol.Scorer`."""

    metrics, terms = METRICS, OWN_TERMS

    @property
    def fingerprint(self) -> str:
        """Hash of this file's version and of OpenCV's."""
        return digest("flow measures", VERSION, cv2.__version__)

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [[self._score(clip)] for clip in clips]

    def _score(self, clip: ScorableClip) -> Score:
        if clip.clip.frames is None:
            return skipped(clip.candidate_id, METRICS[0], "no video track")
        frames = flow_frames(clip.clip.frames)
        if len(frames) < 2:
            return skipped(clip.candidate_id, METRICS[0], TOO_FEW)
        return measured(clip.candidate_id, METRICS[0], mean_flow_px(frames))


def mean_flow_px(frames: NDArray[np.uint8]) -> float:
    """Mean magnitude of the flow's components over consecutive RGB frames [T, H, W, 3], T ≥ 2, in pixels of 320 × 576."""
    grey = [_upright(frame) for frame in frames]
    height, width = grey[0].shape
    size = min(width, WIDTH_PX), min(height, HEIGHT_PX)
    small = [np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8) for frame in grey]
    scale = np.array([WIDTH_PX / size[0], HEIGHT_PX / size[1]])
    fields = (flow_fields(np.stack(pair)) for pair in pairwise(small))
    return float(np.mean([(np.abs(field).mean(axis=(0, 1, 2), dtype=np.float64) * scale).mean() for field in fields]))


def _upright(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma [H, W], transposed where the picture is upright."""
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return np.asarray(np.ascontiguousarray(grey.T) if grey.shape[0] > grey.shape[1] else grey, np.uint8)
