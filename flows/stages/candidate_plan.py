"""The plan of candidates: which clips a run needs, their ids and seeds, and the shards and units that make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from avpref.config.schema import Settings
from avpref.domain import Origin, Prompt, Split, candidate_id, candidate_seed
from avpref.execution.plan import StagePlan, grouped, plan_stage
from avpref.flows.workers.generator import NetworkFiles, base_of, codec_identity, text_identity
from avpref.flows.workers.prompt_sources import has_ground_truth, imports_pairs
from avpref.identity import digest
from avpref.storage.run_folder import RunFolder


@dataclass(frozen=True)
class CandidateRequest:
    """A candidate to make, with its id (``item_id``) and seed."""

    item_id: str
    prompt: Prompt
    index: int
    origin: Origin
    seed: int


NOT_OF_A_CLIP = frozenset({"num_candidates", "ground_truth", "store_latents"})
"""Settings of section sampling that no clip depends on."""
GROUND_TRUTH_INDEX = 0
FIRST_GENERATED_INDEX = 1


ROUND_SPACE = 2
"""Indices that a round reserves per candidate that a prompt has on average: some prompts may get more than others."""


def first_index(settings: Settings) -> int:
    """The index of the first candidate that the round samples of a training prompt; no other round uses the same indices."""
    return FIRST_GENERATED_INDEX + ROUND_SPACE * settings.sampling.num_candidates * (settings.rounds.round - 1)


def sampler_hash(settings: Settings) -> str:
    """Hash of everything that a generated clip depends on, except checkpoint, prompt and seed."""
    return digest("sampler", sampler_parts(settings))


def sampler_parts(settings: Settings) -> dict[str, Any]:
    """The values that :func:`sampler_hash` covers: sections sampling and clip, the identities of codec and text encoder, and
    version and licence of a base model that has a version.
    """
    sampling = settings.sampling.model_dump(mode="json", exclude=set(NOT_OF_A_CLIP))
    codec, text = codec_identity(settings), text_identity(settings)
    base = base_of(settings)
    own = {"base": base.version, "licence": base.terms.licence} if base.version else {}
    return {**sampling, "clip": settings.clip.model_dump(mode="json"), "codec": codec, "text": text, **own}


@dataclass(frozen=True)
class PlannedCandidate:
    """A candidate before it has an id and a seed."""

    prompt: Prompt
    index: int
    origin: Origin


def planned_candidates(prompts: Sequence[Prompt], settings: Settings) -> Iterator[PlannedCandidate]:
    """Every candidate of ``prompts``: N generated and the ground truth for training, one generated for held-out prompts.

    Training prompts of imported pairs have no candidates here: theirs are imported (:mod:`avpref.flows.stages.import_pairs`), except
    in a later round.
    """
    is_imported = imports_pairs(settings)
    for prompt in prompts:
        if is_imported and prompt.split == Split.TRAIN:
            continue
        is_train = prompt.split == Split.TRAIN
        if is_train and settings.sampling.ground_truth and has_ground_truth(prompt, settings):
            yield PlannedCandidate(prompt, GROUND_TRUTH_INDEX, Origin.GROUND_TRUTH)
        num = settings.sampling.num_candidates if is_train else 1
        for index in range(FIRST_GENERATED_INDEX, FIRST_GENERATED_INDEX + num):
            yield PlannedCandidate(prompt, index, Origin.GENERATED)


def candidate_requests(
    prompts: Sequence[Prompt], settings: Settings, checkpoint_hash: str
) -> Iterator[CandidateRequest]:
    """The candidates of :func:`planned_candidates` with their ids and seeds."""
    sampler = sampler_hash(settings)
    for planned in planned_candidates(prompts, settings):
        prompt, index = planned.prompt, planned.index
        if planned.origin == Origin.GROUND_TRUTH:
            source = ground_truth_source(prompt, settings)
            identity = candidate_id(prompt.prompt_id, index, 0, source, sampler)
            yield CandidateRequest(identity, prompt, index, planned.origin, 0)
        else:
            seed = candidate_seed(settings.run.seed, prompt.prompt_id, index)
            identity = candidate_id(prompt.prompt_id, index, seed, checkpoint_hash, sampler)
            yield CandidateRequest(identity, prompt, index, planned.origin, seed)


def ground_truth_source(prompt: Prompt, settings: Settings) -> str:
    """Hash of the source of a ground-truth clip: a recording's SHA-256 and start, or the seed of the toy world."""
    recording = [prompt.ground_truth_sha256, prompt.ground_truth_start_s]
    return "ground_truth" + digest("ground truth", recording if prompt.ground_truth_sha256 else settings.run.seed)


def plan_candidates(
    folder: RunFolder, stage: str, prompts: list[Prompt], network: NetworkFiles, settings: Settings | None = None
) -> StagePlan[CandidateRequest]:
    """The plan of the candidate requests for ``prompts`` and ``network``, under ``settings`` (the run's without)."""
    settings = settings or folder.settings
    requests = list(candidate_requests(prompts, settings, network.hash))
    return plan_requests(folder, stage, requests, network.hash, settings)


def plan_requests(
    folder: RunFolder,
    stage: str,
    requests: Sequence[CandidateRequest],
    network_hash: str,
    settings: Settings | None = None,
) -> StagePlan[CandidateRequest]:
    """The plan of ``requests`` to one network, under ``settings`` (the run's without)."""
    fingerprint = stage_fingerprint(folder, stage, settings or folder.settings, network_hash)
    groups = grouped(requests, [request.prompt.prompt_id for request in requests])
    return plan_stage(stage, "candidates", fingerprint, groups, folder.settings.run)


def stage_fingerprint(folder: RunFolder, stage: str, settings: Settings, network_hash: str) -> str:
    """Hash of everything that the clips of one network depend on, except prompt, index and seed."""
    return folder.fingerprint(stage, network_hash, sampler_hash(settings))
