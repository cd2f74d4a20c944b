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


WAITING_BYTES = 32 << 20
"""Size of the inputs of one network beyond which it runs before its batch is full; numbers do not depend on the batch."""


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
    """A network's front end runs clip by clip; the network when the inputs of a batch, or :data:`WAITING_BYTES` of them, wait."""

    def __init__(self, source: ScorerSource, scorer: ModelScorer[Any]) -> None:
        self.source, self._scorer = source, scorer
        self._prepared: list[tuple[Prepared[Any], float]] = []
        self._results: list[TimedScores] = []
        self._judged_ids: list[str] = []

    def add(self, clip: ScorableClip) -> None:
        """Run the front end, and the network if enough inputs wait."""
        started = time.perf_counter()
        prepared = self._scorer.prepare(clip)
        self._prepared.append((prepared, MS_PER_S * (time.perf_counter() - started)))
        waiting = [clip.inputs for clip, _ in self._prepared if clip.inputs is not None]
        if len(waiting) >= self._scorer.placement.batch_clips or num_bytes(waiting) > WAITING_BYTES:
            self._judge()

    def results(self) -> list[TimedScores]:
        """See :class:`UnitScoring`."""
        self._judge()
        return self._results

    def _judge(self) -> None:
        """Run the network on the waiting clips. Its time is divided equally among those that it judged."""
        started = time.perf_counter()
        scores_of_clips = self._scorer.score_prepared([prepared for prepared, _ in self._prepared])
        is_judged = [prepared.inputs is not None for prepared, _ in self._prepared]
        per_clip_s = (time.perf_counter() - started) / max(1, sum(is_judged))
        network_times_s = [per_clip_s if judged else 0.0 for judged in is_judged]
        self._results += [
            TimedScores(scores, front_end_ms + MS_PER_S * network_s, network_s)
            for scores, (_, front_end_ms), network_s in zip(
                scores_of_clips, self._prepared, network_times_s, strict=True
            )
        ]
        self._judged_ids += [prepared.candidate_id for prepared, _ in self._prepared if prepared.inputs is not None]
        self._prepared = []

    def failed(self) -> Sequence[QuarantineRow]:
        """See :class:`UnitScoring`; an error of these scorers is an error of the unit."""
        return ()

    def embeddings(self) -> dict[str, Any]:
        """See :class:`UnitScoring`."""
        tensors_of_clips = self._scorer.pop_embeddings()
        return {
            f"{candidate_id}.{name}": tensor
            for candidate_id, tensors in zip(self._judged_ids, tensors_of_clips, strict=bool(tensors_of_clips))
            for name, tensor in tensors.items()
        }


def num_bytes(value: object) -> int:
    """Bytes of the tensors in ``value``: a tensor, a sequence, or an object with such attributes; a shared tensor counts each time."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, (tuple, list)):
        return sum(num_bytes(item) for item in value)
    return sum(num_bytes(item) for item in vars(value).values()) if hasattr(value, "__dict__") else 0
