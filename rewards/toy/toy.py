"""The toy world's scorer: the seven metrics, measured from the clip and its prompt, without weights.

The metrics use only the frames, the sound and the text, not the ground truth of the simulation.
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
from avpref.rewards.toy.toy_ball import BallisticPath, BallTrack, fit_path, track_ball
from avpref.rewards.toy.toy_sound import (
    RingOnsets,
    SoundLevels,
    analyse_sound,
    band_match,
    find_onsets,
    peak_to_floor_db,
)
from avpref.rewards.validity import DEFAULT_RULES, ValidityRules, skip_reason

VERSION = 2
TRAIN_S = 0.25
"""Width of an event in the trains that ``audio_video`` compares: two single events this far apart have cosine 1/e."""
SIDE_WIDTH = 0.15
"""Distance from the middle, in picture widths, at which the start is clearly on one side."""
ERROR_FLOOR = 0.01
"""Deviations from the path below this share of the picture height make no difference."""


@dataclass(frozen=True)
class Evidence:
    """Measurements of one clip, each computed once, when a metric needs it."""

    clip: ScorableClip

    @cached_property
    def track(self) -> BallTrack:
        """Position of the ball in each frame."""
        assert self.clip.clip.frames is not None
        return track_ball(self.clip.clip.frames)

    @cached_property
    def path(self) -> BallisticPath:
        """The ballistic path fitted to the track."""
        return fit_path(self.track, self.clip.clip.fps_hz)

    @cached_property
    def levels(self) -> SoundLevels:
        """Power of the sound by frame and band."""
        assert self.clip.clip.audio is not None
        return analyse_sound(self.clip.clip.audio, self.clip.clip.sample_rate_hz)

    @cached_property
    def onsets(self) -> RingOnsets:
        """Times and strengths of the onsets."""
        return find_onsets(self.levels)

    @cached_property
    def scene(self) -> Attributes:
        """The scene that the prompt describes. Raises ValueError if it is not a prompt of the toy world."""
        return understand(self.clip.text)


def visual_quality(evidence: Evidence) -> float:
    """Energy of the fitted ball over the energy of all other changes of the picture, in dB."""
    return 10 * float(np.log10((evidence.track.signal + 1.0) / (evidence.track.residual + 1.0)))


def motion_quality(evidence: Evidence) -> float:
    """Agreement with a ballistic path, in dB: −20 log10 of the deviation in picture heights, at most 40."""
    return -10 * float(np.log10(evidence.path.error**2 + ERROR_FLOOR**2))


def text_video(evidence: Evidence) -> float:
    """Mean of the cosine to the prompt's colour and of the agreement of the ball's starting side (1 right, −1 wrong)."""
    expected = np.array(BALL_RGB[evidence.scene.colour], np.float64) - BACKGROUND_RGB
    colour = float(evidence.track.colour @ expected / np.linalg.norm(expected))
    start = float(np.median(evidence.track.x[: max(1, len(evidence.track.x) // 5)])) / evidence.track.width
    from_middle = (0.5 - start) if evidence.scene.side == StartSide.LEFT else (start - 0.5)
    return 0.5 * colour + 0.5 * float(np.tanh(from_middle / SIDE_WIDTH))


def audio_quality(evidence: Evidence) -> float:
    """Peak to floor ratio of the sound, in dB."""
    return peak_to_floor_db(evidence.levels)


def text_audio(evidence: Evidence) -> float:
    """Cosine in [0, 1] of the sound's spectrum to the band of the prompt's material."""
    return band_match(evidence.levels, RINGS[evidence.scene.material].centre_hz)


def audio_video(evidence: Evidence) -> float:
    """Cosine in [0, 1] of two trains of events, weighted by their energies: impacts in the picture and onsets in the sound.

    Width and weights were chosen so that the number is sensitive to small delays and still falls at large ones, at which
    the second bounce begins to coincide with the first sound.
    """
    impacts_s, speeds = evidence.path.impacts(evidence.clip.clip.duration_s)
    impacts, onsets_s, onsets = np.square(speeds), evidence.onsets.times_s, evidence.onsets.strengths
    product = impacts @ _overlap(impacts_s, onsets_s) @ onsets
    energies = (impacts @ _overlap(impacts_s, impacts_s) @ impacts) * (onsets @ _overlap(onsets_s, onsets_s) @ onsets)
    return float(product / np.sqrt(energies)) if energies > 0 else 0.0


def desync(evidence: Evidence) -> float:
    """Time between the first impact in the picture and the first onset in the sound, in seconds."""
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
TEXT_METRICS = frozenset({"text_video", "text_audio"})


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
        reasons = {str(dimension): skip_reason(evidence.clip.clip, dimension, self.rules) for dimension in Dimension}
        text_reason = _text_reason(evidence.clip.text)
        scores = []
        for metric in self.metrics:
            reason = reasons[metric.dimension] or (text_reason if metric.name in TEXT_METRICS else "")
            if reason:
                scores.append(skipped(evidence.clip.candidate_id, metric, reason))
            else:
                scores.append(measured(evidence.clip.candidate_id, metric, MEASURES[metric.name](evidence)))
        return scores


def toy_scorers() -> tuple[ToyScorer, ...]:
    """The scorers of the toy world."""
    return (ToyScorer(),)


def _text_reason(text: str) -> str:
    """The reason why ``text`` is not a prompt of the toy world; empty if it is one."""
    try:
        understand(text)
    except ValueError as error:
        return str(error)
    return ""


def _overlap(first_s: NDArray[np.float64], second_s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.abs(first_s[:, None] - second_s) / TRAIN_S)
