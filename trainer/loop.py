"""The training loop of flow matching and AV-DPO, in one process or many.

Each rank processes its part of the global batch and gradients are summed, so the number of processes changes only rounding.
Metrics stay on the device until they are logged, so that a step waits for no transfer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from avpref.config.training_settings import LoopSettings, OptimiserSettings
from avpref.errors import AvprefError, ConfigError
from avpref.trainer.adapters import reference_parameters
from avpref.trainer.checkpoint import CheckpointFolder, Fingerprint, TrainingState
from avpref.trainer.data.feeding import BatchSource, BatchT, step_batches
from avpref.trainer.metrics import MetricLog, MetricRow, TrainingSummary, add_displacement, summarise
from avpref.trainer.monitoring.alarms import GradientWatch, act, mark, raised_alarms
from avpref.trainer.monitoring.speed import NO_SPEED, SpeedMeter
from avpref.trainer.noise import shard_for_rank
from avpref.trainer.objectives import LossAndMetrics, Objective, joined
from avpref.trainer.parallel import Context, torch_threads
from avpref.trainer.scaling.background import BackgroundCheckpoints
from avpref.trainer.scaling.optimisers import learning_rate, make_optimiser, set_learning_rate
from avpref.trainer.scaling.sharding import is_sharded, norm_value

TIMESTEP_EDGES = tuple(edge / 8 for edge in range(1, 8))
"""Inner edges of the eight timestep buckets of the curves."""
RECENT_ROWS = 64
"""Rows before a step that its running means and alarms look at, at most."""


@dataclass(frozen=True)
class LoopPlan:
    """Parameters of :func:`train`: loop and optimiser settings, seed of the sample order, output folder, input fingerprint.

    ``ema_decay`` 0 keeps no moving average; ``displacement_alarm`` is in units of the velocity error. ``reference_decay`` is the decay of
    a moving reference; None where the reference does not move.
    """

    loop: LoopSettings
    optimiser: OptimiserSettings
    seed: int
    output: Path
    fingerprint: Fingerprint
    ema_decay: float = 0.0
    displacement_alarm: float = math.inf
    reference_decay: float | None = None

    def lr(self, step: int) -> float:
        """Learning rate of ``step`` (0-based); see :func:`avpref.trainer.scaling.optimisers.learning_rate`."""
        return learning_rate(self.optimiser, step, self.loop.steps)


class Observer(Protocol):
    """Something that looks at a training between two steps, such as previews."""

    def after_step(self, step: int) -> None:
        """Called by every rank after ``step`` steps, and before the first with the step that the training begins at."""


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def make_state(module: nn.Module, plan: LoopPlan) -> TrainingState:
    """AdamW over the trainable parameters, with ``ema_decay`` a copy of them, and the tensors of a reference that moves.

    Raises ConfigError if no parameter is trainable, or if one is not float32: small steps would be rounded away; and as
    :func:`avpref.trainer.scaling.optimisers.make_optimiser`.
    """
    parameters = trainable_parameters(module)
    if not parameters:
        raise ConfigError(
            "no parameter requires a gradient",
            "a trainable network or adapter",
            "check the adapter settings of the job",
        )
    not_float32 = [name for name, parameter in parameters.items() if parameter.dtype != torch.float32]
    if not_float32:
        found = f"{len(not_float32)} trained tensors in {parameters[not_float32[0]].dtype}, first {not_float32[0]}"
        raise ConfigError(found, "float32", "convert the weights, or train an adapter")
    optimiser = make_optimiser(parameters.values(), plan.optimiser)
    average = {name: value.detach().clone() for name, value in parameters.items()} if plan.ema_decay else {}
    reference = {} if plan.reference_decay is None else reference_parameters(module, parameters)
    return TrainingState(parameters, optimiser, average, reference)


class TrainingResult(NamedTuple):
    """Result of :func:`train`: the summary, and the moving average of the trained parameters by name (empty without one)."""

    summary: TrainingSummary
    average: Mapping[str, Tensor]


def train(
    objective: Objective[BatchT],
    source: BatchSource[BatchT],
    plan: LoopPlan,
    context: Context,
    observers: Sequence[Observer] = (),
    speed: SpeedMeter = NO_SPEED,
) -> TrainingResult:
    """Train ``objective.module`` in place, from the newest checkpoint if there is one, and leave a checkpoint at the end.

    Invariants: a run resumed at any checkpoint ends bitwise equal (CPU, equal thread count) to one that was never interrupted;
    the loss curves of one and of several processes agree to float32 rounding. Raises AvprefError for a loss or gradient that is
    not finite, and for an alarm that stops; ConfigError for more ranks than samples in a batch, or a checkpoint of other settings.
    """
    if context.world > plan.loop.batch_size:
        found = f"{context.world} processes for a batch of {plan.loop.batch_size}"
        raise ConfigError(found, "at least one sample per process", "raise loop.batch_size or lower loop.num_processes")
    with torch_threads(plan.loop.num_threads):
        run = _Run(objective, source, plan, context, make_state(objective.module, plan), speed)
        folder = CheckpointFolder(
            plan.output / "checkpoints", plan.fingerprint, plan.loop.keep_checkpoints, plan.loop.keep_every
        )
        first = folder.resume(run.state)
        with (
            MetricLog(plan.output, first, is_writer=context.is_first, trackers=plan.loop.trackers) as log,
            BackgroundCheckpoints(folder, is_writer=context.is_first) as checkpoints,
        ):
            _run_steps(run, checkpoints, log, first, observers)
        context.wait()
        return TrainingResult(summarise(log.rows), run.state.average)


@dataclass(frozen=True)
class _Run(Generic[BatchT]):
    objective: Objective[BatchT]
    source: BatchSource[BatchT]
    plan: LoopPlan
    context: Context
    state: TrainingState
    speed: SpeedMeter

    def batches(self, first: int) -> Iterator[tuple[BatchT, ...]]:
        """The batches of this rank for the steps from ``first`` on, one per forward pass; waiting for them is counted."""
        loop = self.plan.loop
        coming = step_batches(self.source, self.plan.seed, loop.batch_size, range(first, loop.steps), self.context)
        while True:
            with self.speed.waiting():
                batches = next(coming, None)
            if batches is None:
                return
            yield batches

    def step(self, step: int, batches: Sequence[BatchT], watch: GradientWatch) -> tuple[LossAndMetrics, Tensor]:
        """Take one optimiser step on the summed gradients of ``batches``; return this rank's result and the norm of the gradient
        before clipping.
        """
        plan, context, optimiser = self.plan, self.context, self.state.optimiser
        results = []
        for batch in batches:
            self.speed.add(batch)
            result = self.objective.compute(batch.to(context.device))
            result.backward(plan.loop.batch_size)
            results.append(result._replace(loss=result.loss.detach(), replay=None))
        parameters = list(self.state.parameters.values())
        if is_sharded(parameters):
            self._keep_up(step, batches)
        else:
            context.all_reduce_gradients(parameters)
        watch.add(parameters)
        norm = norm_value(nn.utils.clip_grad_norm_(parameters, plan.optimiser.grad_clip))
        set_learning_rate(optimiser, plan.lr(step))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        _advance(self.state.average, self.state.parameters, plan.ema_decay)
        _advance(self.state.reference, self.state.parameters, plan.reference_decay or 0.0)
        return joined(results), norm

    def _keep_up(self, step: int, batches: Sequence[BatchT]) -> None:
        """Make as many passes as the rank with the most in ``step``, because ranks gather the parts of the weights together.

        The surplus passes repeat this rank's smallest batch, and their gradients are 0.
        """
        schedule, loop, world = self.source.schedule, self.plan.loop, self.context.world
        indices = schedule.samples(self.plan.seed, step, loop.batch_size)
        most = max(len(schedule.passes(shard_for_rank(indices, rank, world))) for rank in range(world))
        smallest = min(batches, key=lambda batch: sum(part.numel() for part in batch.latents if part is not None))
        for _ in range(most - len(batches)):
            self.objective.compute(smallest.to(self.context.device)).backward(math.inf)


def _run_steps(
    run: _Run[BatchT], checkpoints: BackgroundCheckpoints, log: MetricLog, first: int, observers: Sequence[Observer]
) -> None:
    loop = run.plan.loop
    metrics = MetricWindow(run.plan, run.context, run.speed)
    watch = GradientWatch(run.state.parameters, loop.alarms.idle_adapter_steps)
    for observer in observers:
        observer.after_step(first)
    for step, batches in enumerate(run.batches(first), first):
        metrics.add(*run.step(step, batches, watch))
        done = step + 1
        is_saving = done % loop.checkpoint_every == 0 or done == loop.steps
        if is_saving or done % loop.log_every == 0:
            metrics.flush(log, done)
            act(done, watch.idle(run.context), loop.alarms)
            checkpoints.check()
        if is_saving:
            checkpoints.save(done, run.state)
        for observer in observers:
            observer.after_step(done)


@torch.no_grad()
def _advance(averages: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], decay: float) -> None:
    for name, average in averages.items():
        average.lerp_(parameters[name], 1 - decay)


class MetricWindow:
    """Metrics of the steps since the last flush, summed per timestep bucket and kept on the device."""

    def __init__(self, plan: LoopPlan, context: Context, speed: SpeedMeter = NO_SPEED) -> None:
        self._plan, self._context, self._speed = plan, context, speed
        self._edges = torch.tensor(TIMESTEP_EDGES, device=context.device)
        self._names: list[str] = []
        self._sums: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._marked: frozenset[str] = frozenset()
        self._started = time.monotonic()

    def add(self, result: LossAndMetrics, norm: Tensor) -> None:
        """Add one step: sums over this rank's samples and numbers of samples that count, [2 metrics, buckets]."""
        self._names = list(result.metrics)
        all_count = torch.ones_like(result.t, dtype=torch.bool)
        counted = torch.stack([result.counted.get(name, all_count) for name in self._names])
        sums = torch.where(counted, torch.stack(list(result.metrics.values())).double(), 0.0)
        values = torch.cat([sums, counted.double()])
        bucket = torch.bucketize(result.t, self._edges)
        empty = values.new_zeros(len(values), len(TIMESTEP_EDGES) + 1)
        self._sums.append(empty.index_add_(1, bucket, values))
        self._norms.append(norm)

    def flush(self, log: MetricLog, done: int) -> None:
        """Write the rows of the steps up to ``done`` and pass the last to the progress callback.

        Raises AvprefError for values that are not finite and for alarms that stop the training, StorageError.
        """
        assert self._sums, "a flush follows at least one step"
        sums = self._context.all_reduce_sum(torch.stack(self._sums))
        norms = torch.stack(self._norms).tolist()
        rows: list[MetricRow] = []
        raised: dict[str, str] = {}
        for offset, (values, norm) in enumerate(zip(sums.sum(2).tolist(), norms, strict=True)):
            step = done - len(norms) + offset
            row = {"step": step + 1, "lr": self._plan.lr(step), "grad_norm": norm} | _means(self._names, values)
            _require_finite(row)
            recent = [*log.rows[-RECENT_ROWS:], *rows]
            row = add_displacement(row, recent, self._plan.displacement_alarm)
            alarms = raised_alarms(row, (log.rows or rows)[:RECENT_ROWS], recent, self._plan.loop.alarms)
            raised |= alarms
            rows.append(mark(row, alarms, self._plan.loop.alarms))
        seconds = time.monotonic() - self._started
        rate = {"samples_per_s": len(rows) * self._plan.loop.batch_size / max(seconds, 1e-9)}
        rate |= self._speed.values(seconds, self._context)
        log.write(rows, _bucket_means(self._names, sums.sum(0)) | rate)
        self._context.on_progress(done, rows[-1])
        self._sums, self._norms, self._started = [], [], time.monotonic()
        new = {name: detail for name, detail in raised.items() if name not in self._marked}
        self._marked = frozenset(raised)
        act(done, new, self._plan.loop.alarms)


def _means(names: list[str], values: list[float]) -> dict[str, float]:
    """Means by name from sums and counts [2 metrics]; metrics that no sample counts in are omitted."""
    sums, counts = values[: len(names)], values[len(names) :]
    return {name: total / count for name, total, count in zip(names, sums, counts, strict=True) if count}


def _bucket_means(names: list[str], sums: Tensor) -> dict[str, float]:
    """Curves ``NAME/t_0.000`` … from sums and counts [2 metrics, buckets]; buckets without samples are omitted."""
    buckets = sums.T.tolist()
    means = [_means(names, values) for values in buckets]
    return {
        f"{name}/t_{bucket / len(buckets):.3f}": means[bucket][name]
        for name in names
        for bucket in range(len(buckets))
        if name in means[bucket]
    }


def _require_finite(row: MetricRow) -> None:
    non_finite = [name for name, value in row.items() if not math.isfinite(value)]
    if non_finite:
        found = f"step {row['step']}: {', '.join(non_finite)} not finite; the last checkpoint is older than this step"
        raise AvprefError(found, "finite numbers", "lower optimiser.lr or the betas, then resume or start again")
