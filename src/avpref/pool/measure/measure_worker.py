"""The worker of stage ``measure``: it decodes each clip once and hands it to every measurer whose rows are missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from avpref.config.pool.pool_settings import BucketAccess
from avpref.datasets.rows import QuarantineRow
from avpref.domain import OWN_TERMS, Metric, ScoreStatus
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.flows.workers.canary import Canary
from avpref.flows.workers.class_scorers import ClassSource
from avpref.flows.workers.score_worker import LoadedScorer
from avpref.flows.workers.scorer_source import ScorerSource
from avpref.flows.workers.unit_scoring import TimedScores, UnitScoring
from avpref.identity import digest
from avpref.media.reading_rules import ReadingRules
from avpref.observability.meters import MS_PER_S
from avpref.pool.measure.clip_window import ClipWindow, DecodedWindow, decode_clip
from avpref.pool.measure.descriptors import NAME as DESCRIPTOR
from avpref.pool.measure.descriptors import VERSION as DESCRIPTOR_VERSION
from avpref.pool.measure.descriptors import descriptor
from avpref.pool.measure.frame_measures import FACTS_KEY
from avpref.pool.pool_tables import MeasureRow
from avpref.pool.scan.pool_source import PoolSource, opened_source
from avpref.rewards.picture_needs import SCORED_SIZE
from avpref.rewards.protocol import ScorableClip
from avpref.storage.score_files import ScoreFiles
from avpref.storage.unit import Unit


@dataclass(frozen=True)
class MeasureItem:
    """A clip to measure: its source and range, and the text that some measures compare it with."""

    clip_id: str
    source: PoolSource
    start_s: float
    end_s: float
    text: str = ""

    @property
    def item_id(self) -> str:
        """The clip's id."""
        return self.clip_id


@dataclass(frozen=True)
class MeasureSpec:
    """Builds workers that hold some of a pool's measurers; ``device`` is that of networks. ``sources`` and ``files`` go together."""

    files: ScoreFiles
    sources: tuple[ScorerSource, ...]
    canary: Canary
    bucket: BucketAccess
    rules: ReadingRules
    max_clip_bytes: int
    device: str = "auto"

    def build(self) -> MeasureWorker:
        """Load the measurers and check each network with the canary. Raises InputError where weights are absent or a canary drifts."""
        loaded = [LoadedScorer(source, source.open(self.device)) for source in self.sources]
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        for scorer in loaded:
            if scorer.source.has_canary:
                may_skip = isinstance(scorer.source, ClassSource)
                self.canary.check(scorer.source.name, scorer.source.fingerprint, scorer.scorer, may_skip)
        return MeasureWorker(self, loaded)


@dataclass(frozen=True)
class MeasureWorker:
    """Measures units of clips. A clip that cannot be decoded is quarantined."""

    spec: MeasureSpec
    measurers: list[LoadedScorer]

    def run(self, unit: Unit[MeasureItem]) -> Receipt:
        """Commit the rows of ``unit``'s clips, for each measurer whose rows of the unit are missing."""
        started = time.perf_counter()
        files = self.spec.files.files
        parts = zip(self.measurers, self.spec.files.parts(unit), strict=True)
        missing = [
            (_Measuring(measurer.start_unit(unit.stage)), part) for measurer, part in parts if not files.exists(part)
        ]
        lost = self._decode_all(unit, [measuring for measuring, _ in missing])
        num_rows, num_lost = 0, len(lost)
        for measuring, part in missing:
            rows = measuring.rows()
            failed = measuring.scoring.failed()
            files.commit(part, rows, [*lost, *failed])
            num_rows, num_lost = num_rows + len(rows), num_lost + len(failed)
        return Receipt(num_rows, num_lost, time.perf_counter() - started)

    def _decode_all(self, unit: Unit[MeasureItem], measurings: Sequence[_Measuring]) -> list[QuarantineRow]:
        """Hand every clip that can be decoded to the measurings; returns the rows of the others."""
        lost = []
        for item in unit.items:
            try:
                with opened_source(item.source, self.spec.bucket) as media:
                    window = ClipWindow(
                        item.start_s, item.end_s, SCORED_SIZE, self.spec.rules, self.spec.max_clip_bytes
                    )
                    decoded = decode_clip(media, window)
            except MediaError as error:
                lost.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
                continue
            clip = ScorableClip(item.item_id, item.text, decoded.clip, {FACTS_KEY: decoded.facts})
            for measuring in measurings:
                measuring.add(clip, decoded)
            del decoded, clip
        return lost


class _Measuring:
    """One measurer's work on one unit."""

    def __init__(self, scoring: UnitScoring) -> None:
        self.scoring = scoring
        self._vectors: list[MeasureRow] = []

    def add(self, clip: ScorableClip, decoded: DecodedWindow) -> None:
        """Measure a clip."""
        self.scoring.add(clip)
        if self.scoring.source.slug == DESCRIBED_WITH:
            started = time.perf_counter()
            values = tuple(descriptor(decoded.clip).tolist())
            elapsed_ms = MS_PER_S * (time.perf_counter() - started)
            self._vectors.append(_vector_row(clip.candidate_id, DESCRIPTOR, values, self.scoring.source, elapsed_ms))

    def rows(self) -> list[MeasureRow]:
        """A row per measure and clip; the time of a clip is divided among its measures."""
        units = {metric.name: metric for metric in self.scoring.source.metrics}
        rows = [row for result in self.scoring.results() for row in _rows(result, self.scoring.source, units)]
        for name, tensor in self.scoring.embeddings().items():
            clip_id, _, kind = name.partition(".")
            values = tuple(float(value) for value in tensor.float().reshape(-1).tolist())
            rows.append(_vector_row(clip_id, f"{self.scoring.source.slug}_{kind}", values, self.scoring.source, 0.0))
        return [*rows, *self._vectors]


DESCRIBED_WITH = "framemeasures"
"""Slug of the measurer beside whose rows the descriptors are kept."""


def _rows(result: TimedScores, source: ScorerSource, metrics: dict[str, Metric]) -> list[MeasureRow]:
    share = result.elapsed_ms / max(1, len(result.scores))
    terms = (source.terms.licence, source.terms.commercial_use, source.terms.is_meaningful)
    return [
        MeasureRow(
            *(score.candidate_id, score.metric, score.value, metrics[score.metric].unit, score.status, score.reason),
            *(source.name, source.fingerprint, share, *terms),
        )
        for score in result.scores
    ]


def _vector_row(
    clip_id: str, name: str, vector: tuple[float, ...], source: ScorerSource, elapsed_ms: float
) -> MeasureRow:
    terms = OWN_TERMS if name == DESCRIPTOR else source.terms
    identity = digest(name, DESCRIPTOR_VERSION) if name == DESCRIPTOR else source.fingerprint
    row = MeasureRow(
        *(clip_id, name, None, "vector", ScoreStatus.OK, "", source.name, identity, elapsed_ms),
        *(terms.licence, terms.commercial_use, terms.is_meaningful),
    )
    return replace(row, vector=vector)
