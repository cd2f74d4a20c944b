"""The worker that scores candidates: each clip is read once, by timestamp, prepared for every scorer, and let go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from avpref.datasets.rows import QuarantineRow, ScoreRow, score_row
from avpref.domain import Candidate, Score
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.flows.workers.canary import Canary
from avpref.flows.workers.committed_clips import ClipBytes, open_clip
from avpref.flows.workers.scorers import ScorerSource
from avpref.identity import bytes_sha256
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, MediaSource, probe, read_clip
from avpref.rewards.protocol import ScorableClip, Scorer
from avpref.storage.files import Files
from avpref.storage.score_files import EMBEDDINGS, ScoreFiles
from avpref.storage.unit import Unit

if TYPE_CHECKING:
    from avpref.rewards.model_scorer import ModelScorer, Prepared

MS = 1000.0


@dataclass(frozen=True)
class ScoreItem:
    """A candidate that is to be scored, and the text to score it against."""

    candidate: Candidate
    text: str

    @property
    def item_id(self) -> str:
        """The candidate's id."""
        return self.candidate.candidate_id


@dataclass(frozen=True)
class View:
    """What scorers see of a file: at most its first ``window_s``, at its own size and rates.

    Weightless scorers see it at ``shape`` instead where there is one.
    """

    shape: ClipShape | None
    window_s: float

    def read(self, clip: MediaSource, is_network: bool) -> DecodedClip:
        """Decode ``clip`` for scorers of one sort. Raises MediaError."""
        if self.shape is not None and not is_network:
            return read_clip(clip, self.shape)
        return read_clip(clip, duration_s=min(self.window_s, probe(clip).duration_s))

    def fingerprint(self, is_network: bool) -> object:
        """The settings of the view that the numbers of such scorers depend on, for the fingerprint of their scores."""
        return self.window_s if is_network or self.shape is None else vars(self.shape)


@dataclass(frozen=True)
class ScoreSpec:
    """Builds workers that hold some of a job's scorers; ``gpu_share`` is the part of a GPU that an actor holds.

    Clips are read from ``media``; what goes beside the scores is committed to ``place``.
    """

    media: Files
    place: Files
    files: ScoreFiles
    sources: tuple[ScorerSource, ...]
    view: View
    canary: Canary
    device: str = "auto"
    gpu_share: float = 0.0

    def build(self) -> ScoreWorker:
        """Load the scorers, and let each network score the canary. One thread, so that every executor adds up alike."""
        if any(source.is_network for source in self.sources):
            import torch

            torch.set_num_threads(1)
        return ScoreWorker(self, [_opened(source, self) for source in self.sources])


class Batch(Protocol):
    """A unit's clips before one scorer: taken one by one, answered for all together."""

    source: ScorerSource

    def take(self, clip: ScorableClip) -> None:
        """Prepare a clip."""
        ...

    def answer(self) -> list[tuple[list[Score], float, float]]:
        """Scores, milliseconds, and seconds in the network of each clip taken, in order."""
        ...

    def tensors(self) -> dict[str, Any]:
        """What is stored beside the scores: tensors by ``clip.name``; to be asked after :meth:`answer`."""
        ...


class WeightlessBatch:
    """A weightless scorer judges each clip as it comes."""

    def __init__(self, source: ScorerSource, scorer: Scorer) -> None:
        self.source, self._scorer = source, scorer
        self._answers: list[tuple[list[Score], float, float]] = []

    def take(self, clip: ScorableClip) -> None:
        """Score the clip."""
        started = time.perf_counter()
        scores = self._scorer.score([clip])[0]
        self._answers.append((scores, MS * (time.perf_counter() - started), 0.0))

    def answer(self) -> list[tuple[list[Score], float, float]]:
        """See :class:`Batch`."""
        return self._answers

    def tensors(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class NetworkBatch:
    """A network's front end runs clip by clip, the network on all of the unit's clips in its own batches."""

    def __init__(self, source: ScorerSource, scorer: ModelScorer[Any]) -> None:
        self.source, self._scorer = source, scorer
        self._taken: list[tuple[Prepared[Any], float]] = []

    def take(self, clip: ScorableClip) -> None:
        """Run the front end."""
        started = time.perf_counter()
        prepared = self._scorer.prepare(clip)
        self._taken.append((prepared, MS * (time.perf_counter() - started)))

    def answer(self) -> list[tuple[list[Score], float, float]]:
        """See :class:`Batch`. The network's time is shared equally by the clips that it judged."""
        started = time.perf_counter()
        scores = self._scorer.score_prepared([prepared for prepared, _ in self._taken])
        judged = [prepared.inputs is not None for prepared, _ in self._taken]
        each_s = (time.perf_counter() - started) / max(1, sum(judged))
        spent_s = [each_s if is_judged else 0.0 for is_judged in judged]
        return [
            (found, front_ms + MS * network_s, network_s)
            for found, (_, front_ms), network_s in zip(scores, self._taken, spent_s, strict=True)
        ]

    def tensors(self) -> dict[str, Any]:
        """See :class:`Batch`."""
        judged = [prepared.candidate_id for prepared, _ in self._taken if prepared.inputs is not None]
        aside = self._scorer.pop_embeddings()
        return {
            f"{clip}.{name}": each
            for clip, named in zip(judged, aside, strict=bool(aside))
            for name, each in named.items()
        }


@dataclass(frozen=True)
class Opened:
    """A source and its scorer, loaded and past the canary."""

    source: ScorerSource
    scorer: Any

    def batch(self) -> Batch:
        """An empty batch."""
        is_network = self.source.is_network
        return (NetworkBatch if is_network else WeightlessBatch)(self.source, self.scorer)


def _opened(source: ScorerSource, spec: ScoreSpec) -> Opened:
    scorer = source.open(spec.device)
    if source.is_network:
        spec.canary.check(source.name, source.fingerprint, cast("ModelScorer[Any]", scorer))
    return Opened(source, scorer)


@dataclass(frozen=True)
class ScoreWorker:
    """Scores units of candidates. A file that cannot be read, or is not the file that was committed, is quarantined."""

    spec: ScoreSpec
    scorers: list[Opened]

    def run(self, unit: Unit[ScoreItem]) -> Receipt:
        """Commit the scores of ``unit``'s items, for each scorer that has not done so."""
        started = time.perf_counter()
        files = self.spec.files.files
        parts = zip(self.scorers, self.spec.files.parts(unit), strict=True)
        missing = [(opened.batch(), part) for opened, part in parts if not files.exists(part)]
        lost = self._fill([batch for batch, _ in missing], unit)
        num_rows = 0
        for batch, part in missing:
            rows = self._rows(batch)
            self._store(batch, part)
            files.commit(part, rows, lost)
            num_rows += len(rows)
        return Receipt(num_rows, len(lost), time.perf_counter() - started)

    def _fill(self, batches: Sequence[Batch], unit: Unit[ScoreItem]) -> list[QuarantineRow]:
        """Give every readable clip to every batch; returns what could not be read."""
        lost = []
        for item in unit.items:
            try:
                read = self._committed(item)
                for is_network in sorted({batch.source.is_network for batch in batches}):
                    clip = ScorableClip(item.item_id, item.text, self.spec.view.read(read, is_network))
                    for batch in batches:
                        if batch.source.is_network == is_network:
                            batch.take(clip)
            except MediaError as error:
                lost.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        return lost

    def _committed(self, item: ScoreItem) -> ClipBytes:
        clip = open_clip(self.spec.media, item.candidate.path)
        found = bytes_sha256(clip.getvalue())
        if found != item.candidate.sha256:
            expected = f"sha-256 {item.candidate.sha256[:12]}…, as committed"
            raise MediaError(
                f"{item.candidate.path} has sha-256 {found[:12]}…", expected, f"restore {item.candidate.path}"
            )
        return clip

    def _store(self, batch: Batch, part: Unit[ScoreItem]) -> None:
        """Commit what goes beside the scores, before the rows say that the unit is done."""
        tensors = batch.tensors()
        if tensors:
            from safetensors.torch import save

            folder = f"{EMBEDDINGS}/{batch.source.slug}-{part.fingerprint}"
            self.spec.place.commit_once(f"{folder}/{part.name}.safetensors", save(tensors))

    def _rows(self, batch: Batch) -> list[ScoreRow]:
        source, rows = batch.source, []
        row_of = partial(score_row, scorer=source.name, fingerprint=source.fingerprint, terms=source.terms)
        for scores, elapsed_ms, network_s in batch.answer():
            share = 1.0 / max(len(scores), 1)
            rows += [
                row_of(score, elapsed_ms=elapsed_ms * share, gpu_s=network_s * self.spec.gpu_share * share)
                for score in scores
            ]
        return rows
