"""Floating point operations of sampling, and GPU-hours at a given speed: for ``candidates sample --dry-run``."""

from __future__ import annotations

from dataclasses import dataclass

from avpref.config.schema import Settings
from avpref.domain import Origin
from avpref.flows.stages.candidate_plan import planned_candidates
from avpref.flows.workers.generator import base_of, open_sampler
from avpref.flows.workers.prompt_sources import clip_shape, open_prompt_source
from avpref.observability.meters import S_PER_H

TERA = 1e12


@dataclass(frozen=True)
class SamplingEstimate:
    """The work of sampling all candidates of a configuration.

    ``prompts`` and ``refused`` count the list of prompts, ``candidates`` the generated and ``ground_truth`` the other candidates,
    ``tokens`` the tokens of one clip. ``gpu_hours`` is the network's share at ``tflops`` sustained: decoding, text encoding and
    loading are not in it.
    """

    prompts: int
    refused: int
    candidates: int
    ground_truth: int
    tokens: int
    flop_per_candidate: float
    tflops: float
    gpu_hours: float


def estimate_sampling(settings: Settings, tflops: float) -> SamplingEstimate:
    """Count candidates, tokens and operations. Raises the errors of sampling itself on prompts, shape or codec."""
    prompt_list = open_prompt_source(settings).prompts()
    planned = list(planned_candidates(prompt_list.prompts, settings))
    num_generated = sum(candidate.origin == Origin.GENERATED for candidate in planned)
    work = base_of(settings).work(clip_shape(settings))
    flop_per_candidate = open_sampler(settings).num_passes * work.forward_flop
    return SamplingEstimate(
        prompts=len(prompt_list.prompts),
        refused=len(prompt_list.refused),
        candidates=num_generated,
        ground_truth=len(planned) - num_generated,
        tokens=work.num_tokens,
        flop_per_candidate=flop_per_candidate,
        tflops=tflops,
        gpu_hours=num_generated * flop_per_candidate / (tflops * TERA) / S_PER_H,
    )
