"""Stage ``generate``: N candidates per training prompt, their ground truth, and the reference's clips of held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from avpref.datasets import tables
from avpref.domain import Candidate, Prompt
from avpref.execution.item_counts import StageCounts
from avpref.execution.plan import StagePlan
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import ClipImporter, GroundTruthOfOtherNetworks
from avpref.execution.run_units import FinishedUnits, run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.rounds.round_candidates import generation_plans, take_start
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import CandidateRequest, plan_candidates, sampler_hash, stage_fingerprint
from avpref.flows.stages.encode_texts import encode_texts
from avpref.flows.stages.import_pairs import imported_units
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
    finished: list[FinishedUnits[Any]] = [imported_units(run)] if imports_pairs(run.settings) else []
    finished += [_make(run, STAGE, planned.plan, planned.network) for planned in generation_plans(run, STAGE)]
    units: list[Unit[Any]] = [unit for part in finished for unit in part.units]
    quarantined = run.tables.seal_units(run.units(tables.CANDIDATES), units)
    run.documents.write_quarantine(quarantine_file(STAGE), quarantined)
    return StageCounts(run.tables.num_rows(tables.CANDIDATES), (*texts, *(part.counts for part in finished)))


def make_candidates(
    run: Run, stage: str, prompts: list[Prompt], network: NetworkFiles
) -> FinishedUnits[CandidateRequest]:
    """Make the candidates that neither this run nor another one has; returns the units that hold all candidates."""
    return _make(run, stage, plan_candidates(run, stage, prompts, network), network)


def _make(
    run: Run, stage: str, plan: StagePlan[CandidateRequest], network: NetworkFiles
) -> FinishedUnits[CandidateRequest]:
    files = run.units(tables.CANDIDATES)
    return run_stage(
        run,
        plan,
        files,
        lambda: GenerateSpec(run.files, run.models, run.runs, run.settings, files, network),
        _reuse(run, stage),
        reporting.observer(),
    )


def _reuse(run: Run, stage: str) -> Reuse[CandidateRequest]:
    sampling = run.settings.sampling
    importer = ClipImporter(run.files, sampling.store_latents, sampling.ground_truth_through_codec)
    of_network = partial(stage_fingerprint, run, stage)
    search_others = GroundTruthOfOtherNetworks(
        partial(itself_and_siblings, run.files, run.siblings), sampler_hash(run.settings), of_network
    )
    files = run.units(tables.CANDIDATES)
    return Reuse(files, run.files, run.siblings, "candidate_id", importer=importer, search_others=search_others)


def candidates_of(run: Run, units: Sequence[Unit[CandidateRequest]]) -> list[Candidate]:
    """Candidates of finished units, in the plan's order."""
    return as_candidates(run.units(tables.CANDIDATES).read(units)[0])
