"""Dry run: items per stage, the bytes that a run would leave in its folder, and the plan of its trainings, without computing any item.

Counts are exact; where they depend on scores (pairs) they are upper bounds. Networks are counted in float32, latents as they are
stored. A clip is assumed to be as large as one of pure noise, which is encoded for this; clips of a network compress better. No
weights are needed. Trainings are planned by :mod:`avpref.flows.training_plan`; other times depend on the machine and are not estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from avpref.config.data_settings import PairPrompts
from avpref.config.schema import Settings
from avpref.config.training_settings import LoopSettings, SftSettings, SftWeights
from avpref.datasets import tables
from avpref.datasets.foreign_pairs.pair_list import num_rows
from avpref.datasets.latents import STORED
from avpref.domain import Origin, Prompt, Split
from avpref.flows.before_first_stage import check_before_first_stage
from avpref.flows.placement import Placement, placements
from avpref.flows.rounds.round_plan import FirstRound, RoundPlan, round_plans
from avpref.flows.shapes import settings_of
from avpref.flows.stages.candidate_plan import planned_candidates
from avpref.flows.stages.train import changes_of, delays_s
from avpref.flows.training_plan import (
    SmallerTraining,
    TrainingPlan,
    fewest_operations,
    smaller_trainings,
    training_plans,
)
from avpref.flows.workers.encode_worker import mp4_bytes
from avpref.flows.workers.generator import base_of, open_codec
from avpref.flows.workers.judges import judges_of
from avpref.flows.workers.prompt_sources import PromptSource, UnencodedClip, clip_shape, open_prompt_source, shapes_of
from avpref.flows.workers.scorers import metrics_of
from avpref.identity import derive_seed
from avpref.models.codecs.codec import SampledCodec
from avpref.trainer.adapters import add_adapter

FLOAT_BYTES = 4
DEFAULT_TFLOPS = 200.0
"""Sustained speed that GPU-hours are given at unless the caller says otherwise."""
ADAM_COPIES = 3
"""A checkpoint holds the trained values and Adam's two moments."""


@dataclass(frozen=True)
class DryRunRow:
    """Work of one stage: number of items, their noun, and the bytes that they leave (None where they cannot be computed)."""

    name: str
    items: int
    unit: str
    num_bytes: int | None


@dataclass(frozen=True)
class DryRun:
    """Work of a run, and where each stage runs; of several rounds, the first, and a plan per round.

    ``clip_bytes`` is the size of one clip of pure noise.
    """

    stages: tuple[DryRunRow, ...]
    clip_bytes: int
    placements: tuple[Placement, ...]
    trainings: tuple[TrainingPlan, ...]
    smaller: tuple[SmallerTraining, ...]
    rounds: tuple[RoundPlan, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all stages and rounds whose bytes can be computed."""
        return sum(row.num_bytes or 0 for row in self.rounds or self.stages)

    def document(self) -> dict[str, Any]:
        """The dry run as JSON values."""
        stages = [
            {"name": row.name, "items": row.items, "unit": row.unit, "bytes": row.num_bytes} for row in self.stages
        ]
        return {
            "stages": stages,
            "total_bytes": self.total_bytes,
            "clip_bytes": self.clip_bytes,
            "placements": [asdict(row) for row in self.placements],
            "trainings": [asdict(plan) | {"memory_total": plan.memory.total} for plan in self.trainings],
            "smaller": [_document(row) for row in self.smaller],
            "cards": [{"card_gb": card} | _document(row) for card, row in fewest_operations(self.smaller)],
            "rounds": [asdict(row) for row in self.rounds],
        }


def _document(row: SmallerTraining) -> dict[str, Any]:
    return asdict(row) | {"memory_total": row.memory.total}


def estimate(settings: Settings, tflops: float = DEFAULT_TFLOPS) -> DryRun:
    """Items and bytes of every stage, and the trainings at ``tflops`` sustained.

    Raises what the run itself would raise on its prompts, network, codec or judges.
    """
    check_before_first_stage(settings)
    source = open_prompt_source(settings)
    prompts = source.prompts().prompts
    clip_bytes = noise_clip_bytes(settings)
    held_out = len(_of(prompts, Split.HELD_OUT))
    stages = (
        *_data_stages(settings, source, prompts),
        *_candidate_stages(settings, prompts, clip_bytes),
        *_pair_stages(settings, prompts),
        DryRunRow("evaluate", held_out, "clips", held_out * clip_bytes),
        *_judge_stages(settings, held_out),
    )
    trainings, smaller = tuple(training_plans(settings, tflops)), tuple(smaller_trainings(settings))
    rounds = tuple(round_plans(settings, _first_round(settings, stages, prompts, trainings), tflops))
    return DryRun(stages, clip_bytes, tuple(placements(settings)), trainings, smaller, rounds)


def _first_round(
    settings: Settings, stages: Sequence[DryRunRow], prompts: list[Prompt], trainings: Sequence[TrainingPlan]
) -> FirstRound:
    rows = {row.name: row for row in stages}
    held_out = rows["evaluate"]
    planned = planned_candidates(_of(prompts, Split.TRAIN), settings)
    return FirstRound(
        train_prompts=rows["pair"].items,
        held_out=held_out.items,
        candidates=sum(candidate.origin == Origin.GENERATED for candidate in planned),
        pairs=rows["encode"].items // 2,
        clip_bytes=(held_out.num_bytes or 0) // max(1, held_out.items),
        latent_bytes=rows["encode"].num_bytes or 0,
        adapter_bytes=rows["train"].num_bytes or 0,
        num_bytes=sum(row.num_bytes or 0 for row in stages),
        training_hours=sum(plan.gpu_hours for plan in trainings if plan.stage == "train"),
    )


def noise_clip_bytes(settings: Settings) -> int:
    """Size of the file of a clip of pure noise in the run's shape: every value of picture and sound is drawn by itself."""
    shape = clip_shape(settings)
    random = np.random.default_rng(derive_seed("size of a clip"))
    frames = random.integers(0, 256, (shape.num_frames, shape.height_px, shape.width_px, 3), dtype=np.uint8)
    audio = random.uniform(-1, 1, shape.num_samples).astype(np.float32)
    return len(mp4_bytes(UnencodedClip("", frames, audio), shape))


def latent_bytes(settings: Settings, delays: int = 0) -> int:
    """Bytes of one clip's stored latents, with ``delays`` further versions of its sound; of several shapes the mean by weight."""
    weights = [shape.weight for shape in settings.clip.shapes] or [1.0]
    total = 0.0
    for shape, weight in zip(shapes_of(settings), weights, strict=True):
        codec = open_codec(settings_of(settings, shape))
        moments = 2 if isinstance(codec, SampledCodec) and codec.samples_audio else 1
        latents = codec.encoded_shapes()
        assert latents.video is not None and latents.audio is not None
        values = math.prod(latents.video) + moments * (1 + delays) * math.prod(latents.audio)
        total += STORED.itemsize * values * weight / sum(weights)
    return round(total)


def network_values(settings: Settings) -> tuple[int, int]:
    """Numbers of values of the network and of its adapter. No memory is allocated for them."""
    with torch.device("meta"):
        network = base_of(settings).build_network()
        whole = sum(parameter.numel() for parameter in network.parameters())
        adapted = add_adapter(network, settings.dpo.adapter, settings.run.seed)
    return whole, sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def _data_stages(settings: Settings, source: PromptSource, prompts: list[Prompt]) -> list[DryRunRow]:
    table_bytes = len(tables.to_bytes(tables.to_arrow(tables.PROMPTS, prompts)))
    first = DryRunRow("prompts", len(prompts), "prompts", table_bytes)
    values, adapter_values = network_values(settings)
    match settings.sft:
        case SftWeights() as sft:
            num_bytes = values * (FLOAT_BYTES if sft.dtype == "float32" else 2)
            if settings.continues_given_adapter:  # the weights under the adapter and the adapter are kept too
                num_bytes += num_bytes + FLOAT_BYTES * adapter_values
            return [first, DryRunRow("sft", 0, "steps", num_bytes)]
        case SftSettings() as sft:
            return [first, *_training_stages(settings, sft, len(source.sft_items(prompts)), values)]


def _training_stages(settings: Settings, sft: SftSettings, clips: int, values: int) -> list[DryRunRow]:
    averages = 1 if sft.ema_decay else 0
    checkpoints = _checkpoints(sft.loop) * (2 if sft.audio_steps else 1)
    kept = checkpoints * (ADAM_COPIES + averages) + 1 + averages
    return [
        DryRunRow("sft_clips", clips, "clips", clips * latent_bytes(settings)),
        DryRunRow("sft", sft.loop.steps + sft.audio_steps, "steps", FLOAT_BYTES * values * kept),
    ]


def _candidate_stages(settings: Settings, prompts: list[Prompt], clip_bytes: int) -> list[DryRunRow]:
    planned = sum(1 for _ in planned_candidates(prompts, settings))
    imported = 2 * num_rows(settings.prompts) if isinstance(settings.prompts, PairPrompts) else 0
    candidates = planned + imported
    return [
        *([DryRunRow("import", imported, "clips at most", None)] if imported else []),
        DryRunRow("generate", planned, "candidates", planned * clip_bytes),
        DryRunRow("score", candidates * len(metrics_of(settings.scoring, settings.executor)), "scores", None),
    ]


def _judge_stages(settings: Settings, held_out: int) -> list[DryRunRow]:
    """Judges score the clips of both sides."""
    num_scores = sum(len(judge.source.metrics) for judge in judges_of(settings))
    return [DryRunRow("evaluate_judge", 2 * held_out * num_scores, "scores", None)] if num_scores else []


def _pair_stages(settings: Settings, prompts: list[Prompt]) -> list[DryRunRow]:
    train = len(_of(prompts, Split.TRAIN))
    pairs = train * settings.pairs.max_pairs_per_prompt
    if isinstance(settings.prompts, PairPrompts):
        pairs = num_rows(settings.prompts)
    latents = pairs * (
        latent_bytes(settings) + latent_bytes(settings, len(delays_s(settings.dpo)) + len(changes_of(settings.dpo)))
    )
    _, values = network_values(settings)
    written = (
        3 if settings.dpo.adapter.layout == "two_adapters" else 1
    )  # the continued one, and the difference of twice its rank
    kept = _checkpoints(settings.dpo.loop) * ADAM_COPIES + written
    return [
        DryRunRow("pair", train, "prompts", None),
        DryRunRow("encode", 2 * pairs, "clips at most", latents),
        DryRunRow("train", settings.dpo.loop.steps, "steps", FLOAT_BYTES * values * kept),
    ]


def _checkpoints(loop: LoopSettings) -> int:
    return min(loop.keep_checkpoints, math.ceil(loop.steps / loop.checkpoint_every))


def _of(prompts: list[Prompt], split: Split) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.split == split]
