"""Floating point operations of sampling, and GPU-hours at a given speed: for ``candidates sample --dry-run``."""

from __future__ import annotations

from dataclasses import dataclass

from avpref.config.network_settings import NetworkSettings
from avpref.config.schema import Settings
from avpref.domain import Origin
from avpref.flows.stages.candidate_plan import planned_candidates
from avpref.flows.workers.generator import open_codec
from avpref.flows.workers.prompt_sources import open_prompt_source
from avpref.models.flow import LatentShapes
from avpref.models.network_flop import forward_flop
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
    num_tokens = tokens(open_codec(settings).latent_shapes(), settings.network)
    rows = 1 if settings.sampling.guidance == 1 else 2
    flop_per_candidate = rows * settings.sampling.steps * forward_flop(num_tokens, settings.network)
    return SamplingEstimate(
        prompts=len(prompt_list.prompts),
        refused=len(prompt_list.refused),
        candidates=num_generated,
        ground_truth=len(planned) - num_generated,
        tokens=num_tokens,
        flop_per_candidate=flop_per_candidate,
        tflops=tflops,
        gpu_hours=num_generated * flop_per_candidate / (tflops * TERA) / S_PER_H,
    )


def tokens(shapes: LatentShapes, network: NetworkSettings) -> int:
    """Video and audio tokens of one clip."""
    assert shapes.video is not None and shapes.audio is not None
    (_, frames, height, width), (_, steps, rows) = shapes.video, shapes.audio
    (patch_frames, patch_height, patch_width), (patch_steps, patch_rows) = network.patch_size, network.audio_patch_size
    num_video = (frames // patch_frames) * (height // patch_height) * (width // patch_width)
    return num_video + (steps // patch_steps) * (rows // patch_rows)
