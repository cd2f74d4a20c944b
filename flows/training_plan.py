"""Plan of a run's trainings without running them: tokens, forward passes, steps, memory per device and GPU-hours of every bucket.

Operations are those of :meth:`avpref.models.bases.base_model.Base.work`. With F operations of one forward pass of a row, of which
A are attention and L = F - A the rest: training all weights takes F forward, 2 L + 2.5 A backward; training an adapter of a frozen network
F forward, L + 2.5 A backward (fused attention recomputes its products); activation checkpointing adds F (selective: L / 2, as every
second product is kept), a live reference and the first of two passes F per row each.
GPU-hours are these operations at a sustained speed that the caller names; nothing else is counted in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from avpref.config.schema import Settings
from avpref.config.training_settings import DpoSettings, LoopSettings, SftSettings
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
USABLE = 0.9
"""Share of a card's memory that the plan may fill: an assumption about contexts, workspaces and fragmentation."""
GB, PETA = 1e9, 1e15


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
    """Memory of AV-DPO with one pair of a bucket per forward pass under ``overrides``; ``smallest_card_gb`` as in the plan.

    ``pflop_per_pair``: operations of a step per pair, 10^15; conversions of 8-bit weights are not counted.
    """

    bucket: str
    overrides: str
    memory: MemoryParts
    smallest_card_gb: int
    pflop_per_pair: float


@dataclass(frozen=True)
class MemoryTrade:
    """Settings of section ``dpo`` that trade memory for time."""

    base_dtype: str
    checkpointing: bool | str
    by_side: bool = False
    two_pass: bool = False


TRADES = (
    *(MemoryTrade("float32", checkpointing) for checkpointing in (False, True)),
    *(MemoryTrade("bfloat16", checkpointing) for checkpointing in (False, "selective", True)),
    MemoryTrade("bfloat16", True, by_side=True),
    *(MemoryTrade("bfloat16", checkpointing, two_pass=True) for checkpointing in (False, True)),
    MemoryTrade("int8", True, two_pass=True),
)
"""The settings that a dry run compares; float8 takes the memory of int8, without the zero points."""


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
    """AV-DPO of one pair of the smallest bucket per forward pass, under settings that trade memory for time, largest memory first."""
    base = base_of(settings)
    shapes = {shape: open_codec(settings_of(settings, shape)).encoded_shapes() for shape in shapes_of(settings)}
    shape = min(shapes, key=lambda shape: base.latent_work(shapes[shape]).num_tokens)
    work = base.latent_work(shapes[shape])
    rows = []
    for trade in TRADES:
        loop = {"activation_checkpointing": trade.checkpointing, "checkpointing_by_tokens": ()}
        changes = {"base_dtype": trade.base_dtype, "by_side": trade.by_side, "two_pass": trade.two_pass}
        training = settings.dpo.model_copy(update={**changes, "loop": settings.dpo.loop.model_copy(update=loop)})
        memory = plan_memory(_request(settings, training, shapes[shape], 2))
        values = {
            **changes,
            **{f"loop.{key}": value for key, value in loop.items() if value != ()},
            "loop.max_tokens": 2 * work.num_tokens,
        }
        overrides = " ".join(f"--set dpo.{key}={str(value).lower()}" for key, value in values.items())
        pflop = 2 * training_flop(work, training) / PETA
        rows.append(SmallerTraining(shape_name(shape), overrides, memory, smallest_card_gb(memory), pflop))
    yield from sorted(rows, key=lambda row: -row.memory.total)


def fewest_operations(rows: Sequence[SmallerTraining]) -> Iterator[tuple[int, SmallerTraining]]:
    """For each of :data:`CARDS_GB` the training of ``rows`` that it holds with the fewest operations, then the least memory."""
    for card in CARDS_GB:
        fitting = [row for row in rows if row.smallest_card_gb and row.smallest_card_gb <= card]
        if fitting:
            yield card, min(fitting, key=lambda row: (row.pflop_per_pair, row.memory.total))


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
        pflop=flop / PETA,
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
    recomputed = {"none": 0.0, "selective": other / 2, "full": forward}[training.loop.checkpointing(work.num_tokens)]
    if not isinstance(training, DpoSettings):
        return forward + backward + recomputed
    reference = forward if training.reference in ("live", "ema") else 0.0
    return forward + backward + recomputed + reference + (forward if training.two_pass else 0.0)


def _request(
    settings: Settings, training: SftSettings | DpoSettings, latents: LatentShapes, rows: int
) -> MemoryRequest:
    network, bits, has_average = settings.base_sections, training.optimiser.state_bits, bool(training.ema_decay)
    mode = training.loop.checkpointing(base_of(settings).latent_work(latents).num_tokens)
    match training:
        case DpoSettings():
            own = max(rows, 2) // (2 if training.two_pass else 1)
            own_adapter, own_dtype = training.adapter, training.base_dtype
            return MemoryRequest(
                network,
                own_adapter,
                own_dtype,
                latents,
                own,
                mode,
                has_average,
                bits,
                training.has_reference_adapter,
                training.by_side and not training.two_pass,
            )
        case SftSettings():
            dtype = training.base_dtype if training.adapter else "float32"
            return MemoryRequest(network, training.adapter, dtype, latents, max(rows, 1), mode, has_average, bits)
