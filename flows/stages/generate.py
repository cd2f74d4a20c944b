"""Stage ``generate``: N candidates per training prompt, their ground truth, and the reference's clips of held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from avpref.config.schema import Settings
from avpref.datasets import tables
from avpref.domain import Candidate, Prompt
from avpref.execution.item_counts import StageCounts
from avpref.execution.plan import StagePlan
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import ClipImporter, GroundTruthOfOtherNetworks
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.rounds.round_candidates import generation_plans, take_start
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import CandidateRequest, plan_candidates, sampler_hash, stage_fingerprint
from avpref.flows.stages.encode_texts import encode_texts
from avpref.flows.stages.import_pairs import imported_units
from avpref.flows.stages.shaped_passes import FinishedPasses, StagePass, finish, members_by_shape, run_by_shape
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.flows.workers.generator import NetworkFiles
from avpref.flows.workers.prompt_sources import imports_pairs
from avpref.storage.documents import quarantine_file
from avpref.storage.sibling_runs import itself_and_siblings
from avpref.storage.table_readers import as_candidates
from avpref.storage.unit import Unit

STAGE = "generate"


@reporting.stage("generate")
def generate(run: Run) -> StageCounts:
    """Make the candidates of the run, or import them, and seal their table; the rows are candidates."""
    take_start(run)
    texts = encode_texts(run, [prompt.text for prompt in run.prompts])
    finished: list[FinishedPasses[Any]] = []
    if imports_pairs(run.settings):
        imported = imported_units(run)
        finished.append(FinishedPasses(imported.units, (imported.counts,)))
    finished += _generated(run)
    units: list[Unit[Any]] = [unit for part in finished for unit in part.units]
    quarantined = run.tables.seal_units(run.units(tables.CANDIDATES), units)
    run.documents.write_quarantine(quarantine_file(STAGE), quarantined)
    counts = (count for part in finished for count in part.counts)
    return StageCounts(run.tables.num_rows(tables.CANDIDATES), (*texts, *counts))


def _generated(run: Run) -> list[FinishedPasses[CandidateRequest]]:
    """The candidates of the run's networks. Later rounds have one shape (:func:`avpref.config.loading.load_config` sees to it)."""
    if run.previous is None:
        return [make_candidates(run, STAGE, run.prompts, run.sft)]
    finished = []
    for planned in generation_plans(run, STAGE):
        units, counts = finish(run, _pass_of(run, STAGE, run.settings, planned.plan, planned.network))
        finished.append(FinishedPasses(units, (counts,)))
    return finished


def make_candidates(
    run: Run, stage: str, prompts: list[Prompt], network: NetworkFiles
) -> FinishedPasses[CandidateRequest]:
    """Make the candidates that neither this run nor another one has; returns the units that hold all candidates."""

    def pass_of(settings: Settings, members: Sequence[Prompt]) -> StagePass[CandidateRequest]:
        return _pass_of(run, stage, settings, plan_candidates(run, stage, list(members), network, settings), network)

    return run_by_shape(run, prompts, lambda prompt: run.shape_of(prompt.prompt_id), pass_of)


def _pass_of(
    run: Run, stage: str, settings: Settings, plan: StagePlan[CandidateRequest], network: NetworkFiles
) -> StagePass[CandidateRequest]:
    files = run.units(tables.CANDIDATES)
    spec = GenerateSpec(run.files, run.models, run.runs, settings, files, network)
    return StagePass(plan, files, spec, _reuse(run, stage, settings))


def planned_units(run: Run, stage: str, prompts: list[Prompt], network: NetworkFiles) -> list[Unit[CandidateRequest]]:
    """The units that :func:`make_candidates` returns, in its order; nothing is made."""
    plans = members_by_shape(run, prompts, lambda prompt: run.shape_of(prompt.prompt_id))
    return [
        unit
        for settings, members in plans
        for unit in plan_candidates(run, stage, list(members), network, settings).units
    ]


def _reuse(run: Run, stage: str, settings: Settings) -> Reuse[CandidateRequest]:
    sampling = settings.sampling
    importer = ClipImporter(run.files, sampling.store_latents, sampling.ground_truth_through_codec)
    of_network = partial(stage_fingerprint, run, stage, settings)
    search_others = GroundTruthOfOtherNetworks(
        partial(itself_and_siblings, run.files, run.siblings), sampler_hash(settings), of_network
    )
    files = run.units(tables.CANDIDATES)
    return Reuse(files, run.files, run.siblings, "candidate_id", importer=importer, search_others=search_others)


def candidates_of(run: Run, units: Sequence[Unit[CandidateRequest]]) -> list[Candidate]:
    """Candidates of finished units, in the plan's order."""
    return as_candidates(run.units(tables.CANDIDATES).read(units)[0])
