"""The part that scorers of packaged networks have in common: validity rules first, then the measurement of the clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from avpref.domain import Metric, Score, Terms
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import ValidityRules, score_valid


class PackagedScorer(ABC):
    """A :class:`avpref.rewards.protocol.Scorer` of one packaged network. Subclasses name metrics, terms and rules, and measure."""

    metrics: tuple[Metric, ...]
    terms: Terms
    rules: ValidityRules

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the numbers depend on."""
        return self._fingerprint

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [score_valid(clip, self.metrics, self.rules, self._values) for clip in clips]

    @abstractmethod
    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        """The number of each of ``metrics`` by name, for a clip that is valid for them."""
