"""Readable text in the picture, by RapidOCR with PP-OCRv6 (trained by PaddlePaddle on Chinese and English text in documents and scenes).

Three frames of a clip are read at their own size (larger ones shrunk until the longer side has 736 pixels). A region counts if its text
is read with a score of at least 0.8: below, the reader takes edges and ornaments for letters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avpref.domain import PICTURE, Dimension, Metric, Terms
from avpref.rewards.learned.frame_choice import spread_frames
from avpref.rewards.learned.packaged_scorer import PackagedScorer
from avpref.rewards.learned.packaged_weights import ONNXRUNTIME, Package, PackagedWeights, fingerprint
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import ValidityRules

NAME, VERSION = "screen_text", 1
_PACKAGE = Package("rapidocr", "rapidocr")
DETECTION = PackagedWeights(_PACKAGE, "models/PP-OCRv6_det_small.onnx")
RECOGNITION = PackagedWeights(_PACKAGE, "models/PP-OCRv6_rec_small.onnx")
TERMS = Terms("Apache-2.0", commercial_use=True)
METRICS = (
    Metric("text_area", "share of the picture", False, Dimension.VIDEO, PICTURE),
    Metric("text_regions", "regions", False, Dimension.VIDEO, PICTURE),
)
NUM_FRAMES = 3
MIN_SCORE = 0.8
LONGEST_SIDE_PX = 736
RULES = ValidityRules(min_frames=1)
READER_SETTINGS: Mapping[str, object] = {
    "Global.use_cls": False,
    "Global.log_level": "critical",
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "Det.limit_type": "max",
    "Det.limit_side_len": LONGEST_SIDE_PX,
}


def screen_text_fingerprint() -> str:
    """Hash of everything that the numbers depend on. Raises InputError where a package is absent."""
    settings = (sorted(READER_SETTINGS.items()), NUM_FRAMES, MIN_SCORE, cv2.__version__, RULES)
    return fingerprint(NAME, VERSION, [DETECTION, RECOGNITION], *settings)


@dataclass(frozen=True, eq=False)
class Region:
    """A region of text: its corners [4, 2] in pixels (x, y), and how certain the reading is, 0 to 1."""

    corners: NDArray[np.float32]
    score: float


def measures(regions_of_frames: Sequence[Sequence[Region]], height_px: int, width_px: int) -> dict[str, float]:
    """Mean over frames of the share of the picture that well-read regions cover (once each), and their largest number in a frame."""
    readable = [[region for region in regions if region.score >= MIN_SCORE] for regions in regions_of_frames]
    covered = [_covered_share(regions, height_px, width_px) for regions in readable]
    return {"text_area": float(np.mean(covered)), "text_regions": float(max(map(len, readable)))}


def _covered_share(regions: Sequence[Region], height_px: int, width_px: int) -> float:
    mask = np.zeros((height_px, width_px), np.uint8)
    for region in regions:
        cv2.fillPoly(mask, [region.corners.round().astype(np.int32)], 1)
    return float(mask.mean())


class ScreenTextScorer(PackagedScorer):
    """Fills :data:`METRICS`; see :class:`avpref.rewards.protocol.Scorer`."""

    metrics, terms, rules = METRICS, TERMS, RULES

    def __init__(self) -> None:
        super().__init__(screen_text_fingerprint())
        self._reader = _open_reader()

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        assert clip.clip.frames is not None
        frames = spread_frames(clip.clip.frames, NUM_FRAMES)
        return measures([self._regions(frame) for frame in frames], *frames.shape[1:3])

    def _regions(self, frame: NDArray[np.uint8]) -> list[Region]:
        """The regions of text in RGB ``frame`` [H, W, 3]."""
        page = self._reader(np.ascontiguousarray(frame[..., ::-1]))
        if page.boxes is None or page.scores is None:
            return []
        return [Region(np.asarray(box), float(score)) for box, score in zip(page.boxes, page.scores, strict=True)]


def _open_reader() -> Any:
    DETECTION.path(NAME)
    ONNXRUNTIME.folder(NAME)
    from rapidocr import RapidOCR

    return RapidOCR(params=dict(READER_SETTINGS))
