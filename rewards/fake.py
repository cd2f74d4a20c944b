"""A scorer without a model, for tests: its numbers are derived from the candidate's id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avpref.domain import METRICS, OWN_TERMS, Metric, Score, Terms
from avpref.identity import SEED_BITS, derive_seed, digest
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import DEFAULT_RULES, ValidityRules, score_valid


@dataclass(frozen=True)
class FakeScorer:
    """Uniform numbers in [0, 1) that depend on candidate id, metric and ``salt`` alone; invalid clips are skipped."""

    metrics: tuple[Metric, ...] = METRICS
    salt: str = ""
    rules: ValidityRules = DEFAULT_RULES
    terms: Terms = OWN_TERMS

    @property
    def fingerprint(self) -> str:
        """Hash of the salt and the metrics' names."""
        return digest("fake scorer", 1, self.salt, [metric.name for metric in self.metrics])

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [score_valid(clip, self.metrics, self.rules, self._values) for clip in clips]

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> dict[str, float]:
        seeds = {
            metric.name: derive_seed("fake score", self.salt, clip.candidate_id, metric.name) for metric in metrics
        }
        return {name: seed / 2**SEED_BITS for name, seed in seeds.items()}
