"""The worker that scores candidates: it reads each clip once, by timestamp, prepares it for every scorer, and drops it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from avpref.datasets.rows import QuarantineRow, ScoreRow, score_row
from avpref.domain import Candidate
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.flows.workers.canary import Canary
from avpref.flows.workers.class_scorers import ClassSource
from avpref.flows.workers.class_scoring import ClassScoring
from avpref.flows.workers.committed_clips import CommittedClip, open_clip
from avpref.flows.workers.scorer_source import ScorerSource
from avpref.flows.workers.unit_scoring import NetworkScoring, UnitScoring, WeightlessScoring
from avpref.media.containers import MediaSource
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, probe, read_clip
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules
from avpref.rewards.picture_needs import SCORED_SIZE
from avpref.rewards.protocol import ScorableClip
from avpref.storage.files import Files
from avpref.storage.score_files import EMBEDDINGS, ScoreFiles
from avpref.storage.unit import Unit


@dataclass(frozen=True)
class ScoreItem:
    """A candidate to score, and the text to score it against."""

    candidate: Candidate
    text: str

    @property
    def item_id(self) -> str:
        """The candidate's id."""
        return self.candidate.candidate_id


@dataclass(frozen=True)
class ClipView:
    """The part of a clip that scorers see: at most its first ``window_s`` seconds, at its own rates, and at its own size or the
    smaller one of :data:`avpref.rewards.picture_needs.SCORED_SIZE`.

    Where ``shape`` is set, scorers without a network see the clip in that shape instead. ``rules`` say how recordings are read.
    """

    shape: ClipShape | None
    window_s: float
    rules: ReadingRules = DEFAULT_READING

    def read(self, clip: MediaSource, is_network: bool) -> DecodedClip:
        """Decode ``clip`` for reward models (``is_network``) or for scorers without a network. Raises MediaError."""
        if self.is_shaped(is_network):
            return read_clip(clip, self.shape, rules=self.rules)
        duration_s = min(self.window_s, probe(clip, self.rules).duration_s)
        return read_clip(clip, duration_s=duration_s, size=SCORED_SIZE, rules=self.rules)

    def is_shaped(self, is_network: bool) -> bool:
        """Whether such scorers see the clip in ``shape``."""
        return self.shape is not None and not is_network

    def fingerprint(self, is_network: bool) -> object:
        """The settings that the scores of such scorers depend on, for the fingerprint of their scores."""
        view = vars(self.shape) if self.shape is not None and not is_network else self.window_s
        return (view, self.rules.audio_track, self.rules.hdr) if self.rules != DEFAULT_READING else view


@dataclass(frozen=True)
class ScoreSpec:
    """Builds workers that hold some of a job's scorers; ``gpu_share`` is the part of a GPU that an actor holds.

    Clips are read from ``media``, scores are committed to ``files`` and embeddings to ``store``.
    """

    media: Files
    store: Files
    files: ScoreFiles
    sources: tuple[ScorerSource, ...]
    view: ClipView
    canary: Canary
    device: str = "auto"
    gpu_share: float = 0.0

    def build(self) -> ScoreWorker:
        """Load the scorers and check each network with the canary. Uses one thread, so that sums are equal with every executor.

        Raises InputError where weights are absent or a canary drifts.
        """
        _use_one_torch_thread()
        scorers = [LoadedScorer(source, source.open(self.device)) for source in self.sources]
        _use_one_torch_thread()
        for loaded in scorers:
            if loaded.source.has_canary:
                may_skip = isinstance(loaded.source, ClassSource)
                self.canary.check(loaded.source.name, loaded.source.fingerprint, loaded.scorer, may_skip)
        return ScoreWorker(self, scorers)


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer that is loaded, and checked with the canary where it is a network."""

    source: ScorerSource
    scorer: Any

    def start_unit(self, stage: str) -> UnitScoring:
        """The scoring of a unit of ``stage``, without clips yet."""
        if isinstance(self.source, ClassSource):
            return ClassScoring(self.source, self.scorer, stage)
        return (NetworkScoring if self.source.is_network else WeightlessScoring)(self.source, self.scorer)


def _use_one_torch_thread() -> None:
    """Let torch use one thread, if anything has imported it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@dataclass(frozen=True)
class ScoreWorker:
    """Scores units of candidates. A file that cannot be read, or is not the file that was committed, is quarantined."""

    spec: ScoreSpec
    scorers: list[LoadedScorer]

    def run(self, unit: Unit) -> Receipt:
        """Commit the scores of ``unit``'s items (ScoreItem), for each scorer whose scores of the unit are missing."""
        started = time.perf_counter()
        files = self.spec.files.files
        parts = zip(self.scorers, self.spec.files.parts(unit), strict=True)
        missing = [(scorer.start_unit(unit.stage), part) for scorer, part in parts if not files.exists(part)]
        quarantined = self._read_clips([scoring for scoring, _ in missing], unit)
        num_rows, lost = 0, list(quarantined)
        for scoring, part in missing:
            rows = self._rows(scoring)
            self._store_embeddings(scoring, part)
            failed = scoring.failed()
            files.commit(part, rows, [*quarantined, *failed])
            num_rows, lost = num_rows + len(rows), [*lost, *failed]
        return Receipt(num_rows, len(lost), time.perf_counter() - started)

    def _read_clips(self, scorings: Sequence[UnitScoring], unit: Unit) -> list[QuarantineRow]:
        """Add every readable clip to every scoring; returns the rows of the clips that could not be read."""
        quarantined = []
        for item in unit.items:
            try:
                with self._committed(item) as committed:
                    self._read_clip(committed, item, scorings)
            except MediaError as error:
                quarantined.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        return quarantined

    def _read_clip(self, committed: CommittedClip, item: ScoreItem, scorings: Sequence[UnitScoring]) -> None:
        """Add a clip to every scoring. It is decoded once for all scorers that see the same of it, and then dropped."""
        view = self.spec.view
        for is_shaped in (True, False):
            seeing = [scoring for scoring in scorings if view.is_shaped(scoring.source.is_network) == is_shaped]
            if seeing:
                decoded = view.read(committed, is_network=seeing[0].source.is_network)
                clip = ScorableClip(item.item_id, item.text, decoded)
                for scoring in seeing:
                    scoring.add(clip)
                del decoded, clip

    def _committed(self, item: ScoreItem) -> CommittedClip:
        """The clip's file. Raises MediaError where it is missing or its SHA-256 is not that of the candidate."""
        clip = open_clip(self.spec.media, item.candidate.path)
        sha256 = clip.sha256()
        if sha256 != item.candidate.sha256:
            clip.close()
            expected = f"sha-256 {item.candidate.sha256[:12]}…, as committed"
            raise MediaError(
                f"{item.candidate.path} has sha-256 {sha256[:12]}…", expected, f"restore {item.candidate.path}"
            )
        return clip

    def _store_embeddings(self, scoring: UnitScoring, part: Unit) -> None:
        """Commit the embeddings before the rows, because committed rows mark the unit as finished."""
        tensors = scoring.embeddings()
        if tensors:
            from safetensors.torch import save

            folder = f"{EMBEDDINGS}/{scoring.source.slug}-{part.fingerprint}"
            self.spec.store.commit_once(f"{folder}/{part.name}.safetensors", save(tensors))

    def _rows(self, scoring: UnitScoring) -> list[ScoreRow]:
        """A row per score; a clip's time is divided equally among its scores."""
        source, rows = scoring.source, []
        row_of = partial(score_row, scorer=source.name, fingerprint=source.fingerprint, terms=source.terms)
        for result in scoring.results():
            share = 1.0 / max(len(result.scores), 1)
            rows += [
                row_of(
                    score, elapsed_ms=result.elapsed_ms * share, gpu_s=result.network_s * self.spec.gpu_share * share
                )
                for score in result.scores
            ]
        return rows
