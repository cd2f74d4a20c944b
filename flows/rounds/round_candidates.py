"""The candidates of a round by the network that samples them: the policy of the round before, SFT's, and those of earlier rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from avpref.datasets import tables
from avpref.datasets.rounds.informative import allocate, disagreement, most_informative_first
from avpref.domain import Origin, Split, candidate_id, candidate_seed
from avpref.errors import InputError
from avpref.execution.plan import StagePlan
from avpref.flows.rounds.earlier_pairs import earlier_candidates, is_drawn
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import (
    CandidateRequest,
    candidate_requests,
    first_index,
    plan_candidates,
    plan_requests,
    sampler_hash,
)
from avpref.flows.workers.generator import NetworkFiles
from avpref.storage.links import link_all
from avpref.trainer.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from avpref.trainer.run_job import ADAPTER_FOLDER

SHOWN = 8


@dataclass(frozen=True)
class NetworkPlan:
    """The candidates that one network samples in stage ``generate``."""

    network: NetworkFiles
    plan: StagePlan[CandidateRequest]


def generation_plans(run: Run, stage: str) -> list[NetworkPlan]:
    """The plans of stage ``generate``: in the first round one, later one per network that made a candidate, SFT's first.

    Raises InputError where the round before has not finished.
    """
    if run.previous is None:
        return [NetworkPlan(run.sft, plan_candidates(run, stage, run.prompts, run.sft))]
    by_network: dict[str, dict[str, CandidateRequest]] = {run.sft.hash: {}, run.start.hash: {}}
    for network_hash, request in [*_own_requests(run), *_earlier_requests(run)]:
        by_network.setdefault(network_hash, {}).setdefault(request.item_id, request)
    plans = []
    for network_hash, requests in by_network.items():
        if not requests:
            continue
        plan = plan_requests(run, stage, list(requests.values()), network_hash)
        ending = {run.sft.hash: "", run.start.hash: "-policy"}.get(network_hash, f"-{network_hash[:SHOWN]}")
        plans.append(NetworkPlan(run.networks[network_hash], replace(plan, name=stage + ending)))
    return plans


def take_start(run: Run) -> None:
    """Link the adapter that the round starts from into the run, so that the run is complete by itself."""
    if run.previous is None:
        return
    source, target = run.previous.policy.adapter, run.start.adapter
    assert source is not None and target is not None
    link_all((source / name, target / name) for name in (WEIGHTS_FILE, CONFIG_FILE))
    run.models.publish(target.parent, [f"{ADAPTER_FOLDER}/{name}" for name in (WEIGHTS_FILE, CONFIG_FILE)])


def _own_requests(run: Run) -> Iterator[tuple[str, CandidateRequest]]:
    """Held-out clips and ground truth as in every round, and new candidates of training prompts, with new noise."""
    settings = run.settings
    for request in candidate_requests(run.prompts, settings, run.sft.hash):
        if request.prompt.split == Split.HELD_OUT or request.origin == Origin.GROUND_TRUTH:
            yield run.sft.hash, request
    counts, sampler, first = _counts(run), sampler_hash(settings), first_index(settings)
    for prompt in run.prompts_of(Split.TRAIN):
        for index in range(first, first + counts[prompt.prompt_id]):
            is_sft = is_drawn(settings.rounds.sft_share, "from sft", settings.run.seed, prompt.prompt_id, index)
            network = run.sft if is_sft else run.start
            seed = candidate_seed(settings.run.seed, prompt.prompt_id, index)
            identity = candidate_id(prompt.prompt_id, index, seed, network.hash, sampler)
            yield network.hash, CandidateRequest(identity, prompt, index, Origin.GENERATED, seed)


def _earlier_requests(run: Run) -> Iterator[tuple[str, CandidateRequest]]:
    """The clips of earlier pairs; they are imported from the runs that made them, or made again where those are gone.

    Raises InputError for a clip that no network of the rounds has made.
    """
    prompts = {prompt.prompt_id: prompt for prompt in run.prompts}
    for clip in earlier_candidates(run):
        if clip.origin != Origin.GROUND_TRUTH and clip.checkpoint_hash not in run.networks:
            found = f"round {run.settings.rounds.round}: clip {clip.candidate_id} of an earlier pair was imported"
            raise InputError(found, "clips that a round has sampled", "--set rounds.earlier_share=0")
        request = CandidateRequest(clip.candidate_id, prompts[clip.prompt_id], clip.index, clip.origin, clip.seed)
        yield clip.checkpoint_hash or run.sft.hash, request


def _counts(run: Run) -> dict[str, int]:
    """Number of new candidates by training prompt."""
    prompts = [prompt.prompt_id for prompt in run.prompts_of(Split.TRAIN)]
    per_prompt = run.settings.sampling.num_candidates
    if run.settings.rounds.allocation == "even":
        return dict.fromkeys(prompts, per_prompt)
    assert run.previous is not None
    earlier = run.previous.tables
    without = set(earlier.read(tables.SKIPPED)["prompt_id"].to_pylist())
    rewards = earlier.read(tables.REWARDS).to_pandas()
    shares = disagreement(rewards.drop(columns=["candidate_id", "strategy", "norm_id"]))
    return allocate(most_informative_first(prompts, without, shares, run.settings.run.seed), per_prompt)
