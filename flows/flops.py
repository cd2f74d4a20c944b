"""How much arithmetic sampling is, and how long it would take at a given speed: for ``candidates sample --dry-run``."""

from __future__ import annotations

from dataclasses import dataclass

from avpref.config.network_settings import NetworkSettings
from avpref.config.schema import Settings
from avpref.domain import Origin
from avpref.flows.stages.candidate_plan import wanted
from avpref.flows.workers.generator import open_codec
from avpref.flows.workers.prompt_sources import open_world
from avpref.models.flow import LatentShapes
from avpref.observability.meters import S_PER_H

TERA = 1e12


@dataclass(frozen=True)
class Effort:
    """What sampling all candidates of a configuration comes to.

    ``gpu_hours`` is the network's share at ``tflops`` sustained: decoding, text encoding and loading are not in it.
    """

    prompts: int
    refused: int
    candidates: int
    ground_truth: int
    tokens: int
    flop_per_candidate: float
    tflops: float
    gpu_hours: float


def effort(settings: Settings, tflops: float) -> Effort:
    """Count candidates, tokens and operations. Raises what sampling itself would raise on prompts, shape or codec."""
    listed = open_world(settings).prompts()
    asked = list(wanted(listed.prompts, settings))
    drawn = sum(each.origin == Origin.GENERATED for each in asked)
    num_tokens = tokens(open_codec(settings).latent_shapes(), settings.network)
    rows = 1 if settings.sampling.guidance == 1 else 2
    each = rows * settings.sampling.steps * forward_flop(num_tokens, settings.network)
    hours = drawn * each / (tflops * TERA) / S_PER_H
    refused, truth = len(listed.refused), len(asked) - drawn
    return Effort(len(listed.prompts), refused, drawn, truth, num_tokens, each, tflops, hours)


def tokens(shapes: LatentShapes, network: NetworkSettings) -> int:
    """Video and audio tokens of one clip."""
    assert shapes.video is not None and shapes.audio is not None
    (_, frames, height, width), (_, steps, rows) = shapes.video, shapes.audio
    (deep, high, wide), (along, across) = network.patch_size, network.audio_patch_size
    return (frames // deep) * (height // high) * (width // wide) + (steps // along) * (rows // across)


def forward_flop(num_tokens: int, network: NetworkSettings) -> float:
    """Floating point operations of one forward pass of one row: products of the blocks, two operations per multiplication.

    Per block and token: four square matrices of self-attention, two of cross-attention, the perceptron; both attentions' products;
    per block: keys and values of the text.
    """
    dim, text = network.dim, network.text_len
    per_token = 6 * dim**2 + 2 * dim * network.ffn_dim + 2 * dim * (num_tokens + text)
    return 2.0 * network.num_layers * (num_tokens * per_token + 2 * text * dim**2)
