"""Measures of a clip's picture that need no network: size, black, still and letterboxed parts, watermark, motion of the codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from avpref.domain import OWN_TERMS, PICTURE, Dimension, Metric, Score
from avpref.identity import digest
from avpref.rewards.learned.frame_choice import spread_frames
from avpref.rewards.protocol import ScorableClip, measured, skipped

VERSION = 1
EVERY_PX = 4
BLACK_LUMA, BLACK_PIXELS = 24, 0.98
"""A frame is black where 98 % of its pixels have a luma of 24 or less (of 255)."""
STILL_LEVELS = 1.0
"""Mean difference, in levels, below which a frame repeats the one before."""
BAR_LUMA, NUM_BAR_FRAMES = 24, 8
"""Luma that no pixel of a bar exceeds in any of eight frames, but one in a hundred of a row or column."""
BAR_PIXELS = 0.01
NUM_MARK_FRAMES, MARK_SIDE_PX, MARK_EDGE, MARK_CONSTANCY = 12, 270, 24.0, 0.9
MARK_CLOSE_PX, MARK_MIN_AREA, MARK_CHANGE, MARK_STILL = 9, 0.001, 5.0, 2.0
METRICS = tuple(
    Metric(name, unit, is_better, Dimension.VIDEO, PICTURE)
    for name, unit, is_better in (
        ("duration_s", "s", True),
        ("height_px", "px", True),
        ("width_px", "px", True),
        ("fps_hz", "Hz", True),
        ("black_share", "share of the frames", False),
        ("static_share", "share of the frames", False),
        ("brightness", "share of white", True),
        ("letterbox_share", "share of the picture", False),
        ("watermark_share", "share of the picture", False),
        ("codec_motion", "picture heights per second", True),
    )
)
NO_PICTURE, ONE_FRAME, STILL = "no video track", "a single frame", "the picture does not move"


@dataclass(frozen=True, eq=False)
class DecodedFacts:
    """Facts of a clip that only its decoding knows: size of the recording, codec, and the mean length of motion vectors per frame.

    ``motion`` is in picture heights per second, one value per predicted frame; empty where the codec gives no vectors.
    """

    height_px: int
    width_px: int
    fps_hz: float
    codec: str
    motion: tuple[float, ...]


FACTS_KEY = "pool facts"
"""Key of :class:`DecodedFacts` in :attr:`avpref.rewards.protocol.ScorableClip.measurements`."""


class FrameMeasures:
    """Fills :data:`METRICS`; see :class:`avpref.rewards.protocol.Scorer`. Black and still clips have values: filters ask for them."""

    metrics, terms = METRICS, OWN_TERMS

    @property
    def fingerprint(self) -> str:
        """Hash of this file's version and of OpenCV's."""
        return digest("frame measures", VERSION, cv2.__version__)

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [self._scores(clip) for clip in clips]

    def _scores(self, clip: ScorableClip) -> list[Score]:
        frames, facts = clip.clip.frames, clip.measurements.get(FACTS_KEY)
        if frames is None:
            return [skipped(clip.candidate_id, metric, NO_PICTURE) for metric in METRICS]
        values: dict[str, float | str] = {"duration_s": clip.clip.duration_s, "fps_hz": clip.clip.fps_hz}
        values |= {"height_px": frames.shape[1], "width_px": frames.shape[2]}
        grey = [
            cv2.cvtColor(np.ascontiguousarray(frame[::EVERY_PX, ::EVERY_PX]), cv2.COLOR_RGB2GRAY) for frame in frames
        ]
        small = np.stack(grey).astype(np.uint8, copy=False)
        values |= {"black_share": black_share(small), "static_share": static_share(small)}
        values |= {"brightness": float(small.mean(dtype=np.float64)) / 255.0}
        values |= {"letterbox_share": letterbox_share(spread_frames(frames, NUM_BAR_FRAMES))}
        values["watermark_share"] = watermark_share(spread_frames(frames, NUM_MARK_FRAMES))
        values["codec_motion"] = "the decoding gives no motion vectors"
        if isinstance(facts, DecodedFacts):
            values |= {"height_px": facts.height_px, "width_px": facts.width_px, "fps_hz": facts.fps_hz}
            values["codec_motion"] = _codec_motion(facts)
        return [_score(clip.candidate_id, metric, values[metric.name]) for metric in METRICS]


def _score(candidate_id: str, metric: Metric, value: float | str) -> Score:
    if isinstance(value, str):
        return skipped(candidate_id, metric, value)
    return measured(candidate_id, metric, float(value))


def _codec_motion(facts: DecodedFacts) -> float | str:
    return float(np.mean(facts.motion)) if facts.motion else f"{facts.codec} gives no motion vectors here"


def black_share(grey: NDArray[np.uint8]) -> float:
    """Share of the frames [T, h, w] that are black."""
    return float(np.mean((grey <= BLACK_LUMA).mean(axis=(1, 2)) >= BLACK_PIXELS))


def static_share(grey: NDArray[np.uint8]) -> float | str:
    """Share of the frames [T, h, w] but the first that repeat the one before."""
    if len(grey) < 2:
        return ONE_FRAME
    changes = [float(cv2.mean(cv2.absdiff(grey[k], grey[k - 1]))[0]) for k in range(1, len(grey))]
    return float(np.mean(np.array(changes) < STILL_LEVELS))


def letterbox_share(frames: NDArray[np.uint8]) -> float:
    """Share of the picture of RGB frames [T, H, W, 3] that bars at its edges cover; 0 for a black clip."""
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).max(axis=0)
    is_bright = luma > BAR_LUMA
    rows = np.flatnonzero(is_bright.mean(axis=1) > BAR_PIXELS)
    columns = np.flatnonzero(is_bright.mean(axis=0) > BAR_PIXELS)
    if not len(rows) or not len(columns):
        return 0.0
    inside = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return float(1.0 - inside / is_bright.size)


def watermark_share(frames: NDArray[np.uint8]) -> float | str:
    """Share of the picture of RGB frames [T, H, W, 3] in which edges stay while their surroundings change: logos, burnt-in text.

    An edge stays where the mean over frames of the gradient is at least 24 levels and 0.9 of the mean of its length. Areas of such
    edges are closed over 9 pixels of a picture 270 pixels high. One counts from 0.1 % of the picture on, and where the pixels around it
    change by 5 levels or more (standard deviation over time): edges of a still background are no marks. A picture that does not
    change by 2 levels has no value.
    """
    small = [_reduced(frame) for frame in frames]
    change = np.std(small, axis=0)
    if len(frames) < 3 or float(change.mean()) < MARK_STILL:
        return STILL
    gradients = [_gradient(grey) for grey in small]
    mean = np.mean(gradients, axis=0)
    lengths = np.mean([np.hypot(gradient[0], gradient[1]) for gradient in gradients], axis=0)
    length_of_mean = np.hypot(mean[0], mean[1])
    is_mark = (length_of_mean >= MARK_EDGE) & (length_of_mean >= MARK_CONSTANCY * lengths)
    kernel = np.ones((MARK_CLOSE_PX, MARK_CLOSE_PX), np.uint8)
    closed = np.asarray(cv2.morphologyEx(is_mark.astype(np.uint8), cv2.MORPH_CLOSE, kernel), np.uint8)
    count, labels, areas, _ = cv2.connectedComponentsWithStats(closed)
    sizes = areas[:count, cv2.CC_STAT_AREA] / closed.size
    marks = [label for label in range(1, count) if sizes[label] >= MARK_MIN_AREA]
    return float(sum(sizes[label] for label in marks if _change_around(labels == label, closed, change) >= MARK_CHANGE))


def _change_around(area: NDArray[np.bool_], marks: NDArray[np.uint8], change: NDArray[np.float32]) -> float:
    """Median change of the pixels around ``area`` that belong to no mark."""
    grown = cv2.dilate(area.astype(np.uint8), np.ones((2 * MARK_CLOSE_PX + 1, 2 * MARK_CLOSE_PX + 1), np.uint8))
    around = (grown > 0) & (marks == 0)
    return float(np.median(change[around])) if around.any() else 0.0


def _reduced(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Luma [h, w] of the picture reduced to at most 270 rows."""
    scale = min(1.0, MARK_SIDE_PX / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.float32)


def _gradient(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradient [2, h, w] of luma in levels per pixel."""
    return np.stack([cv2.Sobel(grey, cv2.CV_32F, dx, dy, ksize=3, scale=0.25) for dx, dy in ((1, 0), (0, 1))])
