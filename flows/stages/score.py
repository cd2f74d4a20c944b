"""Stage ``score``: every candidate through every scorer, one committed file per unit and scorer, sealed as one long table.

    together   actors hold all scorers and read each clip once
    waves      a pool per scorer, one after the other: one network is resident at a time
    pools      a pool per scorer, all at the same time

All three commit the same files, so a run may change from one to another, and a new scorer adds its own work alone.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol

from avpref.config.executor_settings import Executor, InProcessExecutor, PoolSettings, RayExecutor
from avpref.config.run_settings import RunSettings
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets import tables
from avpref.datasets.tables import Table
from avpref.domain import Candidate, Prompt
from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.execution.plan import StagePlan, grouped, plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import SameClips
from avpref.execution.run_units import StageContext, run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.workers.canary import Canary
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.flows.workers.score_worker import ScoreItem, ScoreSpec, View
from avpref.flows.workers.scorers import ScorerSource, sources
from avpref.storage.files import Files
from avpref.storage.score_files import ScoreFiles, distinct
from avpref.storage.sibling_runs import Neighbour
from avpref.storage.table_readers import read_candidates
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

STAGE = "score"
CANARIES = "canaries"


@reporting.stage("score")
def score(run: Run) -> StageCounts:
    """Score the candidates of the run and seal the score table; the rows are scores."""
    scored = score_candidates(run, STAGE, read_candidates(run.tables), run.prompts)
    quarantined = distinct(run.tables.seal_units(run.units(tables.SCORES), scored.units))
    run.documents.write("quarantine-score.json", [vars(row) for row in quarantined])
    return StageCounts(run.tables.num_rows(tables.SCORES), scored.counts)


class ScorePlace(StageContext, Protocol):
    """A run whose candidates are scored: a run's, or that of a list of clips."""

    @property
    def files(self) -> Files:
        """What the place holds."""
        ...

    @property
    def media(self) -> Files:
        """Where the paths of candidates' clips start."""
        ...

    @property
    def shared(self) -> Files:
        """What this and other places have in common."""
        ...

    def units(self, table: Table) -> UnitFiles:
        """Committed units of a table."""
        ...

    def neighbours(self) -> Sequence[Neighbour]:
        """The folders beside it, where finished work may be found."""
        ...

    def fingerprint(self, stage: str, *parts: object) -> str:
        """Stage fingerprint."""
        ...


@dataclass(frozen=True)
class ScoredUnits:
    """The units that hold all score rows, scorer by scorer in the order of the plan, and the counts of every pass."""

    units: list[Unit]
    counts: tuple[ItemCounts, ...]


@dataclass(frozen=True)
class ScoreWork:
    """What is to be scored, by what, and what of it the scorers see."""

    items: Sequence[ScoreItem]
    scoring: ScoringSettings
    run: RunSettings
    view: View


def score_candidates(run: Run, stage: str, candidates: list[Candidate], prompts: list[Prompt]) -> ScoredUnits:
    """Score those of a run's candidates that have no scores yet; returns the units that hold all score rows."""
    text = {prompt.prompt_id: prompt.text for prompt in prompts}
    items = [ScoreItem(candidate, text[candidate.prompt_id]) for candidate in candidates]
    scoring, shape = run.settings.scoring, clip_shape(run.settings)
    view = View(shape, scoring.window_s or shape.duration_s)
    return score_items(run, stage, ScoreWork(items, scoring, run.settings.run, view))


def score_items(place: ScorePlace, stage: str, work: ScoreWork) -> ScoredUnits:
    """Score what has no scores yet; returns the units that hold all rows: scorer by scorer, in the plan's order.

    Raises InputError where weights are absent or a canary drifts, CircuitOpen where too much fails.
    """
    found = sources(work.scoring)
    fingerprints = [
        place.fingerprint(stage, source.fingerprint, work.view.fingerprint(source.is_network)) for source in found
    ]
    groups = grouped(work.items, [item.candidate.prompt_id for item in work.items])
    plan = plan_stage(stage, "candidates", place.fingerprint(stage, fingerprints), groups, work.run)
    waves = [_Wave(place, stage, work, plan, part) for part in _parts(place.executor, found, fingerprints)]
    counts = _run(waves, is_parallel=isinstance(place.executor, RayExecutor) and place.executor.scoring == "pools")
    finished = [replace(unit, fingerprint=fingerprint) for fingerprint in fingerprints for unit in plan.units]
    return ScoredUnits(finished, tuple(counts))


@dataclass(frozen=True)
class _Part:
    """Scorers that share a pool; ``label`` tells parts of a stage apart."""

    label: str
    sources: tuple[ScorerSource, ...]
    fingerprints: tuple[str, ...]
    executor: Executor


@dataclass(frozen=True)
class _Wave:
    """One pass over the plan by one part's scorers."""

    place: ScorePlace
    stage: str
    work: ScoreWork
    plan: StagePlan[ScoreItem]
    part: _Part

    def run(self) -> ItemCounts:
        """Finish every unit for the part's scorers."""
        part, place = self.part, self.place
        files = ScoreFiles(place.units(tables.SCORES), part.fingerprints)
        canary = Canary(place.shared.within(CANARIES), self.work.scoring.canary_tolerance)
        gpu_share = part.executor.num_gpus_per_actor if isinstance(part.executor, RayExecutor) else 0.0

        def spec() -> ScoreSpec:
            """Of the scorers that have something left to do: the others' weights are not loaded."""
            is_left, view, device = self._is_left(files), self.work.view, part.executor.device
            asked = ScoreFiles(files.files, tuple(compress(part.fingerprints, is_left)))
            left = tuple(compress(part.sources, is_left))
            return ScoreSpec(place.media, place.files, asked, left, view, canary, device, gpu_share)

        plan = replace(self.plan, name=self.stage + part.label, executor=part.executor)
        return run_stage(place, plan, files, spec, self._reuse(files), reporting.observer()).counts

    def _is_left(self, files: ScoreFiles) -> list[bool]:
        """For each scorer of the part whether a planned unit lacks it."""
        parts = zip(*(files.parts(unit) for unit in self.plan.units), strict=True)
        return [not all(files.files.exists(part) for part in column) for column in parts]

    def _reuse(self, files: ScoreFiles) -> Reuse[ScoreItem]:
        place = self.place
        paths = {item.item_id: item.candidate.path for item in self.work.items}
        keep = zip(self.part.sources, self.part.fingerprints, strict=True)
        embedded = frozenset(fingerprint for source, fingerprint in keep if source.keeps_embeddings)
        bring = SameClips(place.files, "candidate_id", paths, place.media != place.files, embedded)
        return Reuse(files.files, place.files, place.neighbours, "candidate_id", files.parts, bring, item_noun="scores")


def _run(waves: Sequence[_Wave], is_parallel: bool) -> list[ItemCounts]:
    """Run the waves; returns their counts in the order of the waves."""
    if not is_parallel:
        return [wave.run() for wave in waves]
    with ThreadPoolExecutor(len(waves)) as threads:
        running = [threads.submit(contextvars.copy_context().run, wave.run) for wave in waves]
        return [future.result() for future in running]


def _parts(executor: Executor, found: Sequence[ScorerSource], fingerprints: Sequence[str]) -> list[_Part]:
    if executor.scoring == "together" or len(found) == 1:
        return [_Part("", tuple(found), tuple(fingerprints), executor)]
    return [
        _Part(f"-{source.slug}", (source,), (fingerprint,), _executor_of(executor, source))
        for source, fingerprint in zip(found, fingerprints, strict=True)
    ]


def _executor_of(executor: Executor, source: ScorerSource) -> Executor:
    """The executor of a scorer's own pool: networks have settings of their own, weightless scorers the stage's."""
    if isinstance(executor, InProcessExecutor) or not source.is_network:
        return executor
    pool: PoolSettings = getattr(executor.pools, source.slug)
    return executor.model_copy(update=pool.model_dump())
