"""What a run would do, without doing it: items per stage, and the bytes that it would leave in the run's folder.

Only what can be computed is said. Counts are exact; where they depend on scores (pairs) they are the largest possible.
Networks and latents are counted in float32. A clip is taken to be as large as one of pure noise, which is decoded and
encoded for this: what a network makes compresses better. Times and GPU-hours depend on the machine and are not guessed.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from avpref.config.schema import Settings
from avpref.config.training_settings import LoopSettings, SftSettings, SftWeights
from avpref.datasets import tables
from avpref.domain import Prompt, Split
from avpref.flows.stages.candidate_plan import planned_candidates
from avpref.flows.stages.train import delays_s
from avpref.flows.workers.encode_worker import mp4_bytes
from avpref.flows.workers.generator import open_codec
from avpref.flows.workers.prompt_sources import PromptSource, UnencodedClip, clip_shape, open_prompt_source
from avpref.flows.workers.scorers import metrics_of
from avpref.identity import derive_seed
from avpref.models.dit import JavisDiT, NetworkConfig
from avpref.models.sampling import draw_noise
from avpref.trainer.adapters import add_adapter

FLOAT_BYTES = 4
ADAM_COPIES = 3
"""A checkpoint holds the trained values and Adam's two moments."""

Row = dict[str, Any]


def estimate(settings: Settings) -> dict[str, Any]:
    """``{"stages": [{name, items, unit, bytes}], "total_bytes", "clip_bytes"}``; bytes is None where nobody can say.

    Raises what the run itself would raise on its prompts, network or codec.
    """
    world = open_prompt_source(settings)
    prompts = world.prompts().prompts
    clip_bytes = noise_clip_bytes(settings)
    stages = [
        *_data_stages(settings, world, prompts),
        *_candidate_stages(settings, prompts, clip_bytes),
        *_pair_stages(settings, prompts),
        _row("evaluate", len(_of(prompts, Split.HELD_OUT)), "clips", len(_of(prompts, Split.HELD_OUT)) * clip_bytes),
    ]
    total = sum(stage["bytes"] or 0 for stage in stages)
    return {"stages": stages, "total_bytes": total, "clip_bytes": clip_bytes}


def noise_clip_bytes(settings: Settings) -> int:
    """Size of the file of a clip of pure noise in the run's shape, through the run's codec."""
    shape, codec = clip_shape(settings), open_codec(settings)
    noise = draw_noise(codec.latent_shapes(), [derive_seed("size of a clip")])
    ((frames, audio),) = codec.decode(noise)
    return len(mp4_bytes(UnencodedClip("", frames, audio), shape))


def latent_bytes(settings: Settings, delays: int = 0) -> int:
    """Bytes of one clip's latents, with ``delays`` further versions of its sound."""
    shapes = open_codec(settings).encoded_shapes()
    assert shapes.video is not None and shapes.audio is not None
    return FLOAT_BYTES * (math.prod(shapes.video) + (1 + delays) * math.prod(shapes.audio))


def network_values(settings: Settings) -> tuple[int, int]:
    """How many values the network has, and how many its adapter. Nothing is allocated."""
    with torch.device("meta"):
        network = JavisDiT(NetworkConfig.from_settings(settings.network))
        whole = sum(parameter.numel() for parameter in network.parameters())
        adapted = add_adapter(network, settings.dpo.adapter, settings.run.seed)
    return whole, sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def _data_stages(settings: Settings, world: PromptSource, prompts: list[Prompt]) -> list[Row]:
    table_bytes = len(tables.to_bytes(tables.to_arrow(tables.PROMPTS, prompts)))
    first = _row("prompts", len(prompts), "prompts", table_bytes)
    values, _ = network_values(settings)
    match settings.sft:
        case SftWeights() as given:
            return [first, _row("sft", 0, "steps", values * (FLOAT_BYTES if given.dtype == "float32" else 2))]
        case SftSettings() as given:
            return [first, *_training_stages(settings, given, len(world.sft_items(prompts)), values)]


def _training_stages(settings: Settings, given: SftSettings, clips: int, values: int) -> list[Row]:
    averages = 1 if given.ema_decay else 0
    checkpoints = _checkpoints(given.loop) * (2 if given.audio_steps else 1)
    kept = checkpoints * (ADAM_COPIES + averages) + 1 + averages
    return [
        _row("sft_clips", clips, "clips", _twice_stored(clips * latent_bytes(settings))),
        _row("sft", given.loop.steps + given.audio_steps, "steps", FLOAT_BYTES * values * kept),
    ]


def _candidate_stages(settings: Settings, prompts: list[Prompt], clip_bytes: int) -> list[Row]:
    candidates = sum(1 for _ in planned_candidates(prompts, settings))
    return [
        _row("generate", candidates, "candidates", candidates * clip_bytes),
        _row("score", candidates * len(metrics_of(settings.scoring)), "scores", None),
    ]


def _pair_stages(settings: Settings, prompts: list[Prompt]) -> list[Row]:
    train = len(_of(prompts, Split.TRAIN))
    pairs = train * settings.pairs.max_pairs_per_prompt
    latents = pairs * (latent_bytes(settings) + latent_bytes(settings, len(delays_s(settings.dpo))))
    _, values = network_values(settings)
    kept = _checkpoints(settings.dpo.loop) * ADAM_COPIES + 1
    return [
        _row("pair", train, "prompts", None),
        _row("encode", 2 * pairs, "clips at most", _twice_stored(latents)),
        _row("train", settings.dpo.loop.steps, "steps", FLOAT_BYTES * values * kept),
    ]


def _checkpoints(loop: LoopSettings) -> int:
    return min(loop.keep_checkpoints, math.ceil(loop.steps / loop.checkpoint_every))


def _twice_stored(size: int) -> int:
    """Latents lie in their units, compressed by nothing that can be promised, and in the file that training reads."""
    return 2 * size


def _of(prompts: list[Prompt], split: Split) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.split == split]


def _row(name: str, items: int, unit: str, size: int | None) -> Row:
    return {"name": name, "items": items, "unit": unit, "bytes": size}
