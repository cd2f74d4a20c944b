"""What a scorer is: clips in, one score per clip and metric out.

A scorer says which metrics it fills (names, units, directions: :data:`avpref.domain.METRICS`), under which terms its
numbers may be used, and carries a fingerprint of everything its numbers depend on, so that a score is never reused for another
implementation. A clip that cannot be judged gets a *skipped* score with the reason, never a plausible number.
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
    """A decoded candidate and the text that it was made for."""

    candidate_id: str
    text: str
    clip: DecodedClip
    measurements: dict[object, object] = field(default_factory=dict, repr=False)
    """What looking at the whole picture has found, by question: scorers of one clip share it, copies of the clip too."""


class Scorer(Protocol):
    """A wrapper of a reward model. Implementations hold their weights and are built once per process."""

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
        """Licence of what the numbers come from, and whether they mean anything."""
        ...

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """One list per clip, in the order of ``clips``, with one score per metric, in the order of ``metrics``.

        Invariants: a clip's scores do not depend on the other clips of the call; equal clips give equal scores; a score
        whose status is ok carries a finite number.
        """
        ...


def measured(candidate_id: str, metric: Metric, value: float) -> Score:
    """The score for a number that a scorer arrived at; a number that is not finite becomes a skipped score."""
    if not math.isfinite(value):
        return skipped(candidate_id, metric, f"the scorer gave {value}")
    return Score(candidate_id, metric.name, float(value), ScoreStatus.OK)


def skipped(candidate_id: str, metric: Metric, reason: str) -> Score:
    """The score for a clip that ``metric`` cannot judge, with the reason."""
    return Score(candidate_id, metric.name, None, ScoreStatus.SKIPPED, reason)
