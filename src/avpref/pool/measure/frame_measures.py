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
NUM_MARK_FRAMES, MARK_SIDE_PX, MARK_EDGE, MARK_CONSTANCY, MARK_SHARE_MOVING = 12, 270, 24.0, 0.9, 0.3
MARK_CLOSE_PX, MARK_MIN_AREA = 9, 0.001
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
        small = np.stack(grey)
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
    """Share of the picture of RGB frames [T, H, W, 3] in which edges stay while the rest moves: logos, channel marks, burnt-in text.

    An edge stays where the mean over frames of the gradient is at least 24 levels and 0.9 of the mean of its length. Areas of such
    edges are closed over 9 pixels of a picture 270 pixels high; smaller ones than 0.1 % of the picture are left out. A picture
    of which less than 30 % of the edges change has no value, because its own edges stay as well.
    """
    if len(frames) < 3:
        return STILL
    gradients = [_gradient(frame) for frame in frames]
    mean = np.mean(gradients, axis=0)
    lengths = np.mean([np.hypot(gradient[0], gradient[1]) for gradient in gradients], axis=0)
    constancy = np.hypot(mean[0], mean[1]) / np.maximum(lengths, 1e-6)
    is_edge = lengths >= MARK_EDGE / 2
    is_mark = (np.hypot(mean[0], mean[1]) >= MARK_EDGE) & (constancy >= MARK_CONSTANCY)
    if is_edge.any() and np.mean(constancy[is_edge] < MARK_CONSTANCY) < MARK_SHARE_MOVING:
        return STILL
    kernel = np.ones((MARK_CLOSE_PX, MARK_CLOSE_PX), np.uint8)
    closed = cv2.morphologyEx(is_mark.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    count, _, areas, _ = cv2.connectedComponentsWithStats(closed)
    sizes = areas[1:count, cv2.CC_STAT_AREA] / closed.size
    return float(sizes[sizes >= MARK_MIN_AREA].sum())


def _gradient(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gradient [2, h, w] of luma in levels per pixel, of the picture reduced to at most 270 rows."""
    scale = min(1.0, MARK_SIDE_PX / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.stack([cv2.Sobel(grey, cv2.CV_32F, dx, dy, ksize=3, scale=0.25) for dx, dy in ((1, 0), (0, 1))])
