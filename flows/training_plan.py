"""Plan of a run's trainings without running them: tokens, forward passes, steps, memory per device and GPU-hours of every bucket.

Operations are those of :meth:`avpref.models.bases.base_model.Base.work`. With F operations of one forward pass of a row, of which
A are attention and L = F - A the rest: training all weights takes F forward, 2 L + 2.5 A backward; training an adapter of a frozen network
F forward, L + 2.5 A backward (fused attention recomputes its products); activation checkpointing adds F, a live reference F per row.
GPU-hours are these operations at a sustained speed that the caller names; nothing else is counted in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from avpref.config.schema import Settings
from avpref.config.training_settings import CheckpointingMode, DpoSettings, LoopSettings, SftSettings
from avpref.flows.flops import TERA
from avpref.flows.placement import placed_loop
from avpref.flows.shapes import settings_of, shape_name
from avpref.flows.workers.generator import base_of, open_codec
from avpref.flows.workers.prompt_sources import shapes_of
from avpref.media.geometry import ClipShape
from avpref.models.bases.base_model import Work
from avpref.models.flow import LatentShapes
from avpref.observability.meters import S_PER_H
from avpref.trainer.memory_plan import MemoryParts, MemoryRequest, plan_memory

CARDS_GB = (24, 48, 80, 141)
"""Memory of common cards, 10^9 bytes."""
MODES: tuple[tuple[CheckpointingMode, str], ...] = (("none", "false"), ("full", "true"))
USABLE = 0.9
"""Share of a card's memory that the plan may fill: an assumption about contexts, workspaces and fragmentation."""
GB = 1e9


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of one bucket of one training.

    Attributes:
        stage: ``sft`` or ``train``.
        bucket: frames x height x width.
        device: where it trains.
        tokens: tokens of one sample: of both clips of a pair.
        samples_per_pass: samples in one forward pass of one process.
        steps: optimiser steps of the whole training, over all buckets.
        samples: samples of all steps of this bucket, by its weight among the shapes.
        memory: bytes by part on one device.
        smallest_card_gb: the smallest of :data:`CARDS_GB` that holds it; 0 if none does.
        pflop: operations of all samples of this bucket, 10^15.
        gpu_hours: these at the assumed speed.
    """

    stage: str
    bucket: str
    device: str
    tokens: int
    samples_per_pass: int
    steps: int
    samples: float
    memory: MemoryParts
    smallest_card_gb: int
    pflop: float
    gpu_hours: float


@dataclass(frozen=True)
class SmallerTraining:
    """Memory of AV-DPO with one pair of a bucket per forward pass under ``overrides``; ``smallest_card_gb`` as in the plan."""

    bucket: str
    overrides: str
    memory: MemoryParts
    smallest_card_gb: int


def training_plans(settings: Settings, tflops: float) -> Iterator[TrainingPlan]:
    """The plan of every training and bucket, at ``tflops`` sustained. Raises what opening the codec raises for a shape it cannot make."""
    trainings: list[tuple[str, SftSettings | DpoSettings]] = [("train", settings.dpo)]
    if isinstance(settings.sft, SftSettings):
        trainings.insert(0, ("sft", settings.sft))
    weights = [shape.weight for shape in settings.clip.shapes] or [1.0]
    for stage, training in trainings:
        for shape, weight in zip(shapes_of(settings), weights, strict=True):
            yield _plan(settings, stage, training, (shape, weight / sum(weights)), tflops)


def smaller_trainings(settings: Settings) -> Iterator[SmallerTraining]:
    """AV-DPO of one pair of the smallest bucket per forward pass, under settings that lower its memory, largest memory first."""
    base, sections = base_of(settings), settings.base_sections
    shapes = {shape: open_codec(settings_of(settings, shape)).encoded_shapes() for shape in shapes_of(settings)}
    shape = min(shapes, key=lambda shape: base.latent_work(shapes[shape]).num_tokens)
    latents = shapes[shape]
    rows = []
    dtypes: tuple[tuple[str, bool], ...] = (("float32", False), ("bfloat16", False), ("bfloat16", True), ("int8", True))
    for dtype, is_two_pass in dtypes:
        for mode, value in MODES:
            rows_of_pass = 1 if is_two_pass else 2
            request = MemoryRequest(sections, settings.dpo.adapter, dtype, latents, rows_of_pass, mode)
            changes = {
                "base_dtype": dtype,
                "loop.activation_checkpointing": value,
                "two_pass": str(is_two_pass).lower(),
                "loop.max_tokens": str(2 * base.latent_work(latents).num_tokens),
            }
            memory = plan_memory(request)
            overrides = " ".join(f"--set dpo.{key}={value}" for key, value in changes.items())
            rows.append(SmallerTraining(shape_name(shape), overrides, memory, smallest_card_gb(memory)))
    yield from sorted(rows, key=lambda row: -row.memory.total)


def smallest_card_gb(memory: MemoryParts) -> int:
    """The smallest of :data:`CARDS_GB` of which ``memory`` fills at most :data:`USABLE`; 0 if none."""
    return next((card for card in CARDS_GB if memory.total <= USABLE * card * GB), 0)


def _plan(
    settings: Settings,
    stage: str,
    training: SftSettings | DpoSettings,
    shape_and_share: tuple[ClipShape, float],
    tflops: float,
) -> TrainingPlan:
    shape, share = shape_and_share
    loop = placed_loop(settings.executor, training.loop)
    latents = open_codec(settings_of(settings, shape)).encoded_shapes()
    rows = 2 if isinstance(training, DpoSettings) else 1
    work = base_of(settings).latent_work(latents)
    tokens = rows * work.num_tokens
    per_pass = samples_per_pass(loop, tokens)
    memory = plan_memory(_request(settings, training, latents, rows * per_pass))
    samples = loop.steps * loop.batch_size * share
    flop = samples * rows * training_flop(work, training)
    return TrainingPlan(
        stage=stage,
        bucket=shape_name(shape),
        device=loop.device,
        tokens=tokens,
        samples_per_pass=per_pass,
        steps=loop.steps,
        samples=samples,
        memory=memory,
        smallest_card_gb=smallest_card_gb(memory),
        pflop=flop / 1e15,
        gpu_hours=flop / (tflops * TERA) / S_PER_H,
    )


def samples_per_pass(loop: LoopSettings, tokens: int) -> int:
    """Samples of ``tokens`` tokens in one forward pass of one process; 0 where not even one fits ``loop.max_tokens``."""
    own = -(-loop.batch_size // loop.num_processes)
    return own if loop.max_tokens is None else min(own, loop.max_tokens // tokens)


def training_flop(work: Work, training: SftSettings | DpoSettings) -> float:
    """Operations of one row of a training step, reference included."""
    forward, attention = work.forward_flop, work.attention_flop
    other = forward - attention
    is_adapter = isinstance(training, DpoSettings) or training.adapter is not None
    backward = (1.0 if is_adapter else 2.0) * other + 2.5 * attention
    recomputed = forward if training.loop.checkpointing(work.num_tokens) == "full" else 0.0
    if not isinstance(training, DpoSettings):
        return forward + backward + recomputed
    reference = forward if training.reference in ("live", "ema") else 0.0
    return forward + backward + recomputed + reference + (forward if training.two_pass else 0.0)


def _request(
    settings: Settings, training: SftSettings | DpoSettings, latents: LatentShapes, rows: int
) -> MemoryRequest:
    network, bits = settings.base_sections, training.optimiser.state_bits
    mode = training.loop.checkpointing(base_of(settings).latent_work(latents).num_tokens)
    match training:
        case DpoSettings():
            has_average = bool(training.ema_decay)
            own = max(rows, 2) // (2 if training.two_pass else 1)
            own_adapter, own_dtype = training.adapter, training.base_dtype
            has_second = training.has_reference_adapter
            return MemoryRequest(network, own_adapter, own_dtype, latents, own, mode, has_average, bits, has_second)
        case SftSettings():
            adapter, dtype = training.adapter, training.base_dtype if training.adapter else "float32"
            has_average = bool(training.ema_decay)
            return MemoryRequest(network, adapter, dtype, latents, max(rows, 1), mode, has_average, bits)
