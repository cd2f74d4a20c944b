"""Stage ``generate``: N candidates per training prompt, ground truth beside them, and the reference's held-out clips."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from avpref.datasets import tables
from avpref.domain import Prompt
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import BringClips, GroundTruthElsewhere
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.candidate_plan import plan_candidates, sampler_hash, stage_fingerprint
from avpref.flows.stages.encode_texts import encode_texts
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.sft import sft_network
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.flows.workers.generator import NetworkFiles
from avpref.storage.run_folder import RunFolder, open_root
from avpref.storage.sibling_runs import here_and_beside
from avpref.storage.unit import Unit

STAGE = "generate"


@reporting.stage("generate")
def generate(run_dir: str) -> int:
    """Make the candidates of the run in ``run_dir`` and seal their table; returns how many there are."""
    folder = open_root(Path(run_dir))
    prompts = read_prompts(folder)
    encode_texts(folder, prompts)
    units = make_candidates(folder, STAGE, prompts, sft_network(folder))
    quarantined = folder.seal_units(tables.CANDIDATES, units)
    folder.write_json("quarantine-generate.json", [vars(row) for row in quarantined])
    return folder.num_rows(tables.CANDIDATES)


def make_candidates(folder: RunFolder, stage: str, prompts: list[Prompt], network: NetworkFiles) -> list[Unit]:
    """Make what is missing and nobody beside this run has made; returns the units that hold all of them."""
    plan = plan_candidates(folder, stage, prompts, network)
    files = folder.units(tables.CANDIDATES)
    return run_stage(
        folder,
        stage,
        files,
        plan,
        lambda: GenerateSpec(folder.files, folder.models, folder.root.parent, folder.settings, files, network),
        "candidates",
        reuse=_reuse(folder, stage),
    )


def _reuse(folder: RunFolder, stage: str) -> Reuse:
    sampling = folder.settings.sampling
    bring = BringClips(folder.files, sampling.store_latents, sampling.ground_truth_through_codec)
    of_network = partial(stage_fingerprint, folder, stage)
    elsewhere = GroundTruthElsewhere(
        partial(here_and_beside, folder.files, folder.neighbours), sampler_hash(folder.settings), of_network
    )
    files = folder.units(tables.CANDIDATES)
    return Reuse(files, folder.files, folder.neighbours, "candidate_id", bring=bring, elsewhere=elsewhere)
