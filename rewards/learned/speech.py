"""The share of a clip in which somebody speaks, by Silero VAD (Silero Team, 2021–2025).

The network is recurrent: it reads 32 ms at a time, together with the last 4 ms before them, and gives the probability of speech.
It is run from a zero state for every clip, so a clip's number depends on nothing else. Stretches follow the package's defaults: from
0.5 on, until the probability falls below 0.35; gaps below 100 ms are filled and stretches below 250 ms dropped.
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
from avpref.rewards.learned.packaged_weights import Package, PackagedWeights, fingerprint, open_session
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import DEFAULT_RULES

NAME, VERSION = "speech", 1
WEIGHTS = PackagedWeights(Package("silero-vad", "silero_vad"), "data/silero_vad_16k_sequence.onnx")
TERMS = Terms("MIT", commercial_use=True)
METRICS = (Metric("speech_share", "share of the clip", True, Dimension.AUDIO, SOUND),)
WINDOW, CONTEXT, STATE = 512, 64, 128
MOST_WINDOWS = 512
"""Windows per call of the network: 16 s."""
RULES = ActivityRules(WINDOW / 16000, 0.5, 0.35, min_gap_s=0.1, min_length_s=0.25)


def speech_fingerprint() -> str:
    """Hash of everything that the numbers depend on. Raises InputError where the package is absent."""
    return fingerprint(NAME, VERSION, [WEIGHTS], RULES, DEFAULT_RULES)


def network_inputs(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sound [S] at 16 kHz → [⌈S / 512⌉, 576]: windows of 512 samples after the 64 before them, zeros beyond both ends."""
    num_windows = -(-len(sound) // WINDOW)
    padded = np.zeros(CONTEXT + num_windows * WINDOW, np.float32)
    padded[CONTEXT : CONTEXT + len(sound)] = sound
    return np.stack([padded[start : start + CONTEXT + WINDOW] for start in range(0, num_windows * WINDOW, WINDOW)])


class SpeechDetector:
    """Silero VAD: sound to probabilities of speech. Raises InputError where the package is absent."""

    def __init__(self, scorer: str = NAME) -> None:
        self._session = open_session(scorer, WEIGHTS)

    def probabilities(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of speech in each 32 ms of sound [S] at 16 kHz: [⌈S / 512⌉]."""
        windows = network_inputs(sound)
        state: list[Any] = [np.zeros((1, 1, STATE), np.float32)] * 2
        parts = []
        for start in range(0, len(windows), MOST_WINDOWS):
            inputs = {"input": windows[start : start + MOST_WINDOWS], "h": state[0], "c": state[1]}
            part, *state = self._session.run(None, inputs)
            parts.append(part)
        return np.concatenate(parts)

    def share(self, sound: NDArray[np.float32]) -> float:
        """Share of sound [S] at 16 kHz in which somebody speaks."""
        return active_share(self.probabilities(sound), RULES)


class SpeechScorer(PackagedScorer):
    """Fills ``speech_share``; see :class:`avpref.rewards.protocol.Scorer`. Its direction means more speech, not better speech."""

    metrics, terms, rules = METRICS, TERMS, DEFAULT_RULES

    def __init__(self, detector: SpeechDetector | None = None) -> None:
        self._detector = detector or SpeechDetector()
        super().__init__(speech_fingerprint())

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        return {METRICS[0].name: self._detector.share(mono_16k(clip.clip))}
