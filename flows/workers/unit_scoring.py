"""How one scorer works on one unit: clips are added one by one, then the results of all are asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from avpref.datasets.rows import QuarantineRow
from avpref.domain import Score
from avpref.flows.workers.scorer_source import ScorerSource
from avpref.observability.meters import MS_PER_S
from avpref.rewards.protocol import ScorableClip, Scorer

if TYPE_CHECKING:
    from avpref.rewards.model_scorer import ModelScorer, Prepared


@dataclass(frozen=True)
class TimedScores:
    """Scores of one clip by one scorer, milliseconds in all, and the seconds of them that the network took."""

    scores: list[Score]
    elapsed_ms: float
    network_s: float


class UnitScoring(Protocol):
    """One scorer's work on one unit."""

    source: ScorerSource

    def add(self, clip: ScorableClip) -> None:
        """Prepare a clip."""
        ...

    def results(self) -> list[TimedScores]:
        """The scores of each added clip that did not fail, in order."""
        ...

    def failed(self) -> Sequence[QuarantineRow]:
        """The clips that failed with this scorer alone; call it after :meth:`results`."""
        ...

    def embeddings(self) -> dict[str, Any]:
        """Tensors to store with the scores, by ``CANDIDATE.NAME``; call it after :meth:`results`."""
        ...


class WeightlessScoring:
    """A scorer without a network judges each clip when it is added."""

    def __init__(self, source: ScorerSource, scorer: Scorer) -> None:
        self.source, self._scorer = source, scorer
        self._results: list[TimedScores] = []

    def add(self, clip: ScorableClip) -> None:
        """Score the clip."""
        started = time.perf_counter()
        scores = self._scorer.score([clip])[0]
        self._results.append(TimedScores(scores, MS_PER_S * (time.perf_counter() - started), 0.0))

    def results(self) -> list[TimedScores]:
        """See :class:`UnitScoring`."""
        return self._results

    def failed(self) -> Sequence[QuarantineRow]:
        """See :class:`UnitScoring`; an error of these scorers is an error of the unit."""
        return ()

    def embeddings(self) -> dict[str, Any]:
        """See :class:`UnitScoring`; there are none."""
        return {}


class NetworkScoring:
    """A network's front end runs clip by clip, the network on all of the unit's clips in its own batches."""

    def __init__(self, source: ScorerSource, scorer: ModelScorer[Any]) -> None:
        self.source, self._scorer = source, scorer
        self._prepared: list[tuple[Prepared[Any], float]] = []

    def add(self, clip: ScorableClip) -> None:
        """Run the front end."""
        started = time.perf_counter()
        prepared = self._scorer.prepare(clip)
        self._prepared.append((prepared, MS_PER_S * (time.perf_counter() - started)))

    def results(self) -> list[TimedScores]:
        """See :class:`UnitScoring`. The network's time is divided equally among the clips that it judged."""
        started = time.perf_counter()
        scores_of_clips = self._scorer.score_prepared([prepared for prepared, _ in self._prepared])
        is_judged = [prepared.inputs is not None for prepared, _ in self._prepared]
        per_clip_s = (time.perf_counter() - started) / max(1, sum(is_judged))
        network_times_s = [per_clip_s if judged else 0.0 for judged in is_judged]
        return [
            TimedScores(scores, front_end_ms + MS_PER_S * network_s, network_s)
            for scores, (_, front_end_ms), network_s in zip(
                scores_of_clips, self._prepared, network_times_s, strict=True
            )
        ]

    def failed(self) -> Sequence[QuarantineRow]:
        """See :class:`UnitScoring`; an error of these scorers is an error of the unit."""
        return ()

    def embeddings(self) -> dict[str, Any]:
        """See :class:`UnitScoring`."""
        judged_ids = [prepared.candidate_id for prepared, _ in self._prepared if prepared.inputs is not None]
        tensors_of_clips = self._scorer.pop_embeddings()
        return {
            f"{candidate_id}.{name}": tensor
            for candidate_id, tensors in zip(judged_ids, tensors_of_clips, strict=bool(tensors_of_clips))
            for name, tensor in tensors.items()
        }
