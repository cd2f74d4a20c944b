"""The toy world's scorer: the seven metrics measured from the clip and its prompt, without weights.

They judge what a viewer could see and hear; nothing of the simulation's ground truth is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from avpref.domain import METRICS, OWN_TERMS, Dimension, Metric, Score, Terms
from avpref.identity import digest
from avpref.media.toyscene import BACKGROUND_RGB, BALL_RGB, RINGS, Attributes, StartSide, understand
from avpref.rewards.protocol import ScorableClip, measured, skipped
from avpref.rewards.toy.toy_ball import Path, Track, fit_path, track_ball
from avpref.rewards.toy.toy_sound import Heard, Onsets, band_match, find_onsets, listen, peak_to_floor_db
from avpref.rewards.validity import DEFAULT_RULES, ValidityRules, reason

VERSION = 2
TRAIN_S = 0.25
"""How wide an event is in the trains that ``audio_video`` compares: two single events this far apart have cosine 1/e."""
SIDE_WIDTH = 0.15
"""Distance from the middle, in widths, at which the side counts as clear."""
ERROR_FLOOR = 0.01
"""Deviations from the path below this share of the picture height are not told apart."""


@dataclass(frozen=True)
class Evidence:
    """What was seen and heard in one clip; each part is worked out once, when a metric asks for it."""

    clip: ScorableClip

    @cached_property
    def track(self) -> Track:
        """The ball in each frame."""
        assert self.clip.clip.frames is not None
        return track_ball(self.clip.clip.frames)

    @cached_property
    def path(self) -> Path:
        """Its fall and bounces."""
        return fit_path(self.track, self.clip.clip.fps_hz)

    @cached_property
    def heard(self) -> Heard:
        """The sound's levels."""
        assert self.clip.clip.audio is not None
        return listen(self.clip.clip.audio, self.clip.clip.sample_rate_hz)

    @cached_property
    def onsets(self) -> Onsets:
        """When it sounds."""
        return find_onsets(self.heard)

    @cached_property
    def scene(self) -> Attributes:
        """What the prompt asks for. Raises ValueError where it is not a prompt of the toy world."""
        return understand(self.clip.text)


def visual_quality(evidence: Evidence) -> float:
    """Energy of the best single ball over the energy of everything else that changes, in dB."""
    return 10 * float(np.log10((evidence.track.signal + 1.0) / (evidence.track.residual + 1.0)))


def motion_quality(evidence: Evidence) -> float:
    """Nearness to a ballistic path, in dB: -20 log10 of the deviation in picture heights, at most 40."""
    return -10 * float(np.log10(evidence.path.error**2 + ERROR_FLOOR**2))


def text_video(evidence: Evidence) -> float:
    """Mean of the cosine to the prompt's colour and of the side the ball starts at (1 right, -1 wrong)."""
    expected = np.array(BALL_RGB[evidence.scene.colour], np.float64) - BACKGROUND_RGB
    colour = float(evidence.track.colour @ expected / np.linalg.norm(expected))
    start = float(np.median(evidence.track.x[: max(1, len(evidence.track.x) // 5)])) / evidence.track.width
    from_middle = (0.5 - start) if evidence.scene.side == StartSide.LEFT else (start - 0.5)
    return 0.5 * colour + 0.5 * float(np.tanh(from_middle / SIDE_WIDTH))


def audio_quality(evidence: Evidence) -> float:
    """Peak to floor, in dB."""
    return peak_to_floor_db(evidence.heard)


def text_audio(evidence: Evidence) -> float:
    """Cosine of the sound's spectrum to the band of the prompt's material."""
    return band_match(evidence.heard, RINGS[evidence.scene.material].centre_hz)


def audio_video(evidence: Evidence) -> float:
    """Cosine of two trains of events, as strong as their energies: impacts that are seen and onsets that are heard.

    Chosen among several widths and weights for what it tells of small delays while still falling at large ones, where
    the second bounce begins to coincide with the first sound.
    """
    seen_s, speeds = evidence.path.impacts(evidence.clip.clip.duration_s)
    seen, heard_s, heard = np.square(speeds), evidence.onsets.times_s, evidence.onsets.strengths
    product = seen @ _overlap(seen_s, heard_s) @ heard
    energies = (seen @ _overlap(seen_s, seen_s) @ seen) * (heard @ _overlap(heard_s, heard_s) @ heard)
    return float(product / np.sqrt(energies)) if energies > 0 else 0.0


def desync(evidence: Evidence) -> float:
    """Distance between the first impact that is seen and the first onset that is heard, in seconds."""
    return abs(evidence.path.first_impact_s - evidence.onsets.first_s)


MEASURES = {
    "visual_quality": visual_quality,
    "motion_quality": motion_quality,
    "text_video": text_video,
    "audio_quality": audio_quality,
    "text_audio": text_audio,
    "audio_video": audio_video,
    "desync": desync,
}
OF_TEXT = frozenset({"text_video", "text_audio"})


@dataclass(frozen=True)
class ToyScorer:
    """All seven metrics of the toy world."""

    rules: ValidityRules = DEFAULT_RULES
    metrics: tuple[Metric, ...] = METRICS
    terms: Terms = OWN_TERMS

    @property
    def fingerprint(self) -> str:
        """Hash of the version and the rules."""
        return digest("toy scorer", VERSION, repr(self.rules), [metric.name for metric in self.metrics])

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`. Clips may differ in size, length and rates."""
        return [self._scores(Evidence(clip)) for clip in clips]

    def _scores(self, evidence: Evidence) -> list[Score]:
        reasons = {dimension: reason(evidence.clip.clip, dimension, self.rules) for dimension in Dimension}
        not_understood = _not_understood(evidence.clip.text)
        scores = []
        for metric in self.metrics:
            why_not = reasons[metric.dimension] or (not_understood if metric.name in OF_TEXT else "")
            if why_not:
                scores.append(skipped(evidence.clip.candidate_id, metric, why_not))
            else:
                scores.append(measured(evidence.clip.candidate_id, metric, MEASURES[metric.name](evidence)))
        return scores


def toy_scorers() -> tuple[ToyScorer, ...]:
    """The set of scorers of the toy world."""
    return (ToyScorer(),)


def _not_understood(text: str) -> str:
    try:
        understand(text)
    except ValueError as error:
        return str(error)
    return ""


def _overlap(first_s: NDArray[np.float64], second_s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.abs(first_s[:, None] - second_s) / TRAIN_S)
