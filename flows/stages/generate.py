"""Stage ``generate``: N candidates per training prompt, their ground truth, and the reference's clips of held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from avpref.config.schema import Settings
from avpref.datasets import tables
from avpref.domain import Candidate, Prompt
from avpref.execution.item_counts import StageCounts
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import ClipImporter, GroundTruthOfOtherNetworks
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import CandidateRequest, plan_candidates, sampler_hash, stage_fingerprint
from avpref.flows.stages.encode_texts import encode_texts
from avpref.flows.stages.shaped_passes import FinishedPasses, StagePass, members_by_shape, run_by_shape
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.flows.workers.generator import NetworkFiles
from avpref.storage.documents import quarantine_file
from avpref.storage.sibling_runs import itself_and_siblings
from avpref.storage.table_readers import as_candidates
from avpref.storage.unit import Unit

STAGE = "generate"


@reporting.stage("generate")
def generate(run: Run) -> StageCounts:
    """Make the candidates of the run and seal their table; the rows are candidates."""
    texts = encode_texts(run, [prompt.text for prompt in run.prompts])
    made = make_candidates(run, STAGE, run.prompts, run.sft)
    quarantined = run.tables.seal_units(run.units(tables.CANDIDATES), made.units)
    run.documents.write_quarantine(quarantine_file(STAGE), quarantined)
    return StageCounts(run.tables.num_rows(tables.CANDIDATES), (*texts, *made.counts))


def make_candidates(
    run: Run, stage: str, prompts: list[Prompt], network: NetworkFiles
) -> FinishedPasses[CandidateRequest]:
    """Make the candidates that neither this run nor another one has; returns the units that hold all candidates."""
    files = run.units(tables.CANDIDATES)

    def pass_of(settings: Settings, members: Sequence[Prompt]) -> StagePass[CandidateRequest]:
        plan = plan_candidates(run, stage, list(members), network, settings)
        spec = GenerateSpec(run.files, run.models, run.runs, settings, files, network)
        return StagePass(plan, files, spec, _reuse(run, stage, settings))

    return run_by_shape(run, prompts, lambda prompt: run.shape_of(prompt.prompt_id), pass_of)


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
