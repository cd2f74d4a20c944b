"""The ``Scorer`` protocol: clips in, one score per clip and metric out.

A scorer names the metrics that it fills (names, units and directions: :data:`avpref.domain.METRICS`), the licence of its
numbers, and a fingerprint of everything that the numbers depend on, so that a stored score is never reused for another
implementation. A clip that cannot be scored gets a *skipped* score with the reason, never a plausible number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from avpref.domain import Metric, Score, ScoreStatus, Terms
from avpref.media.reading import DecodedClip


@dataclass(frozen=True, eq=False)
class ScorableClip:
    """A decoded candidate and the text that it was generated for."""

    candidate_id: str
    text: str
    clip: DecodedClip
    measurements: dict[object, object] = field(default_factory=dict, repr=False)
    """Cache of whole-clip measurements, shared by all scorers of this clip and by its copies."""


class Scorer(Protocol):
    """A wrapper of a reward model. Implementations hold their weights and are built once per process.

    A scorer of one metric, the loudness of the sound:

    >>> import numpy as np
    >>> from avpref.domain import METRIC_BY_NAME, OWN_TERMS
    >>> class LoudnessScorer:
    ...     metrics = (METRIC_BY_NAME["audio_quality"],)
    ...     fingerprint = "loudness, version 1"
    ...     terms = OWN_TERMS
    ...
    ...     def score(self, clips):
    ...         return [[self._loudness(clip, metric) for metric in self.metrics] for clip in clips]
    ...
    ...     def _loudness(self, clip, metric):
    ...         if clip.clip.audio is None:
    ...             return skipped(clip.candidate_id, metric, "no audio track")
    ...         return measured(clip.candidate_id, metric, float(np.abs(clip.clip.audio).mean()))
    >>> frames = np.zeros((8, 16, 16, 3), np.uint8)
    >>> tone = DecodedClip(frames, 8.0, np.full(16000, 0.5, np.float32), 16000, 1.0)
    >>> mute = DecodedClip(frames, 8.0, None, 0, 1.0)
    >>> scorer: Scorer = LoudnessScorer()
    >>> rows = scorer.score([ScorableClip("a", "a tone", tone), ScorableClip("b", "a tone", mute)])
    >>> [(score.candidate_id, score.value, score.reason) for row in rows for score in row]
    [('a', 0.5, ''), ('b', None, 'no audio track')]
    """

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that each clip gets, in the order of the scores."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the implementation's version, weights and settings: equal fingerprints give equal numbers."""
        ...

    @property
    def terms(self) -> Terms:
        """Licence of the weights behind the numbers, and whether the numbers are meaningful."""
        ...

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """One list per clip, in the order of ``clips``, with one score per metric, in the order of ``metrics``.

        Invariants: the scores of a clip do not depend on the other clips of the call; equal clips get equal scores; a score
        whose status is ok has a finite number.
        """
        ...


def measured(candidate_id: str, metric: Metric, value: float) -> Score:
    """The score with ``value``, in the unit of ``metric``; a value that is not finite becomes a skipped score."""
    if not math.isfinite(value):
        return skipped(candidate_id, metric, f"the scorer gave {value}")
    return Score(candidate_id, metric.name, float(value), ScoreStatus.OK)


def skipped(candidate_id: str, metric: Metric, reason: str) -> Score:
    """The score without a number of a clip to which ``metric`` does not apply, with the reason."""
    return Score(candidate_id, metric.name, None, ScoreStatus.SKIPPED, reason)


def failed(candidate_id: str, metric: Metric, reason: str) -> Score:
    """The score of a clip that the scorer should have judged and could not, for instance because a service did not answer.

    The clip becomes a quarantine row with the reason, and is tried again in the next run.
    """
    return Score(candidate_id, metric.name, None, ScoreStatus.QUARANTINED, reason)
