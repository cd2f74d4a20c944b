"""Stage ``score``: every candidate through every scorer, one committed file per unit and scorer, sealed as one long table.

``executor.scoring`` says how scorers are grouped into pools of actors:

    together   one pool: its actors hold all scorers and read each clip once
    waves      a pool per scorer, one after the other: one network is loaded at a time
    pools      a pool per scorer, all at the same time

All three commit the same files, so a run may change from one to another, and a new scorer adds only its own work.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol

from avpref.config.executor_settings import RayExecutor
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
from avpref.flows.shapes import shape_of_candidate
from avpref.flows.stages.scorer_groups import CANARIES, ScorerGroup, scorer_groups
from avpref.flows.stages.shaped_passes import members_by_shape, pass_suffix
from avpref.flows.workers.canary import Canary
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.flows.workers.score_worker import ClipView, ScoreItem, ScoreSpec
from avpref.flows.workers.scorers import sources
from avpref.storage.documents import quarantine_file
from avpref.storage.files import Files
from avpref.storage.score_files import ScoreFiles, distinct
from avpref.storage.sibling_runs import SiblingRun
from avpref.storage.table_readers import read_candidates
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

STAGE = "score"


@reporting.stage("score")
def score(run: Run) -> StageCounts:
    """Score the candidates of the run and seal the score table; the rows are scores."""
    scored = score_candidates(run, STAGE, read_candidates(run.tables), run.prompts)
    quarantined = distinct(run.tables.seal_units(run.units(tables.SCORES), scored.units))
    run.documents.write_quarantine(quarantine_file(STAGE), quarantined)
    return StageCounts(run.tables.num_rows(tables.SCORES), scored.counts)


class ScoringFolder(StageContext, Protocol):
    """A folder whose candidates are scored: a run, or the folder of a list of clips."""

    @property
    def files(self) -> Files:
        """The files of the folder."""
        ...

    @property
    def media(self) -> Files:
        """The files that the paths of candidates refer to."""
        ...

    @property
    def shared(self) -> Files:
        """The files that this folder shares with others: canary answers."""
        ...

    def units(self, table: Table) -> UnitFiles:
        """The committed units of a table."""
        ...

    def siblings(self) -> Sequence[SiblingRun]:
        """The other folders in the same parent folder, whose finished scores are reused."""
        ...

    def fingerprint(self, stage: str, *parts: object) -> str:
        """Hash of everything that the results of ``stage`` depend on: ``parts`` and the folder's own version."""
        ...


@dataclass(frozen=True)
class ScoredUnits:
    """The units that hold all score rows, scorer by scorer in the order of the plan, and the counts of each pass."""

    units: list[Unit]
    counts: tuple[ItemCounts, ...]


@dataclass(frozen=True)
class ScoringRequest:
    """The items to score, the scorers, the size of units, the part of each clip that scorers see, and an end for names of passes."""

    items: Sequence[ScoreItem]
    scoring: ScoringSettings
    run: RunSettings
    view: ClipView
    suffix: str = ""


def score_candidates(
    run: Run, stage: str, candidates: list[Candidate], prompts: list[Prompt], scoring: ScoringSettings | None = None
) -> ScoredUnits:
    """Score those of ``candidates`` that have no scores yet, by ``scoring`` (the run's section without); the units hold all rows.

    Raises as :func:`score_items`.
    """
    text = {prompt.prompt_id: prompt.text for prompt in prompts}
    scoring = scoring or run.settings.scoring
    finished: list[ScoredUnits] = []
    for settings, members in members_by_shape(run, candidates, shape_of_candidate):
        items = [ScoreItem(candidate, text[candidate.prompt_id]) for candidate in members]
        shape, suffix = clip_shape(settings), pass_suffix(run.settings, settings)
        view = ClipView(shape, scoring.window_s or shape.duration_s)
        finished.append(score_items(run, stage, ScoringRequest(items, scoring, run.settings.run, view, suffix)))
    counts = (count for scored in finished for count in scored.counts)
    return ScoredUnits([unit for scored in finished for unit in scored.units], tuple(counts))


def score_items(folder: ScoringFolder, stage: str, request: ScoringRequest) -> ScoredUnits:
    """Score the items that have no scores yet; returns the units that hold all rows: scorer by scorer, in the plan's order.

    Raises InputError where weights are absent or a canary drifts, CircuitOpen where too many items fail.
    """
    scorers = sources(request.scoring, folder.executor)
    fingerprints = [
        folder.fingerprint(stage, source.fingerprint, request.view.fingerprint(source.is_network)) for source in scorers
    ]
    groups = grouped(request.items, [item.candidate.prompt_id for item in request.items])
    plan = plan_stage(stage, "candidates", folder.fingerprint(stage, fingerprints), groups, request.run)
    by_pool = scorer_groups(folder.executor, scorers, fingerprints)
    passes = [_ScorerPass(folder, stage, request, plan, group) for group in by_pool]
    counts = _run(passes, is_parallel=isinstance(folder.executor, RayExecutor) and folder.executor.scoring == "pools")
    finished = [replace(unit, fingerprint=fingerprint) for fingerprint in fingerprints for unit in plan.units]
    return ScoredUnits(finished, tuple(counts))


@dataclass(frozen=True)
class _ScorerPass:
    """One pass over the plan by one group of scorers."""

    folder: ScoringFolder
    stage: str
    request: ScoringRequest
    plan: StagePlan[ScoreItem]
    group: ScorerGroup

    def run(self) -> ItemCounts:
        """Finish every unit for the group's scorers."""
        group, folder = self.group, self.folder
        files = ScoreFiles(folder.units(tables.SCORES), group.fingerprints)
        canary = Canary(folder.shared.subfolder(CANARIES), self.request.scoring.canary_tolerance)
        gpu_share = group.executor.num_gpus_per_actor if isinstance(group.executor, RayExecutor) else 0.0

        def spec() -> ScoreSpec:
            """Only the scorers with unfinished units, so that no other weights are loaded."""
            is_unfinished, view, device = self._is_unfinished(files), self.request.view, group.executor.device
            unfinished_files = ScoreFiles(files.files, tuple(compress(group.fingerprints, is_unfinished)))
            unfinished = tuple(compress(group.sources, is_unfinished))
            return ScoreSpec(folder.media, folder.files, unfinished_files, unfinished, view, canary, device, gpu_share)

        plan = replace(self.plan, name=self.stage + self.request.suffix + group.suffix, executor=group.executor)
        return run_stage(folder, plan, files, spec, self._reuse(files), reporting.observer()).counts

    def _is_unfinished(self, files: ScoreFiles) -> list[bool]:
        """For each scorer of the group, whether its scores of a planned unit are missing."""
        parts = zip(*(files.parts(unit) for unit in self.plan.units), strict=True)
        return [not all(files.files.exists(part) for part in column) for column in parts]

    def _reuse(self, files: ScoreFiles) -> Reuse[ScoreItem]:
        folder = self.folder
        paths = {item.item_id: item.candidate.path for item in self.request.items}
        scorers = zip(self.group.sources, self.group.fingerprints, strict=True)
        embedded = frozenset(fingerprint for source, fingerprint in scorers if source.keeps_embeddings)
        importer = SameClips(folder.files, "candidate_id", paths, folder.media != folder.files, embedded)
        return Reuse(
            files.files, folder.files, folder.siblings, "candidate_id", files.parts, importer, item_noun="scores"
        )


def _run(passes: Sequence[_ScorerPass], is_parallel: bool) -> list[ItemCounts]:
    """Run the passes; returns their counts in the same order."""
    if not is_parallel:
        return [scorer_pass.run() for scorer_pass in passes]
    with ThreadPoolExecutor(len(passes)) as threads:
        running = [threads.submit(contextvars.copy_context().run, scorer_pass.run) for scorer_pass in passes]
        return [future.result() for future in running]
