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
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avpref.config.training_settings import LoopSettings, OptimiserSettings
from avpref.errors import AvprefError, ConfigError
from avpref.trainer.checkpoint import CheckpointFolder, Fingerprint, TrainingState
from avpref.trainer.data.feeding import BatchSource, StepBatches, step_batches
from avpref.trainer.metrics import MetricLog, MetricRow, TrainingSummary, add_displacement, summarise
from avpref.trainer.noise import FlowBatch
from avpref.trainer.objectives import LossAndMetrics, Objective, joined
from avpref.trainer.parallel import Context, torch_threads

TIMESTEP_EDGES = tuple(edge / 8 for edge in range(1, 8))
"""Inner edges of the eight timestep buckets of the curves."""


@dataclass(frozen=True)
class LoopPlan:
    """Parameters of :func:`train`: loop and optimiser settings, seed of the sample order, output folder, input fingerprint.

    ``ema_decay`` 0 keeps no moving average; ``displacement_alarm`` is in units of the velocity error.
    """

    loop: LoopSettings
    optimiser: OptimiserSettings
    seed: int
    output: Path
    fingerprint: Fingerprint
    ema_decay: float = 0.0
    displacement_alarm: float = math.inf

    def lr(self, step: int) -> float:
        """Learning rate of ``step`` (0-based): linear warm-up lr (k + 1) / (w + 1), then constant."""
        return self.optimiser.lr * min(1.0, (step + 1) / (self.optimiser.warmup_steps + 1))


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def make_state(module: nn.Module, plan: LoopPlan) -> TrainingState:
    """AdamW over the trainable parameters and, with ``ema_decay``, a copy of them.

    Raises ConfigError if no parameter is trainable, or if one is not float32: small steps would be rounded away.
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
    settings = plan.optimiser
    optimiser = torch.optim.AdamW(
        parameters.values(),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    average = {name: value.detach().clone() for name, value in parameters.items()} if plan.ema_decay else {}
    return TrainingState(parameters, optimiser, average)


class TrainingResult(NamedTuple):
    """Result of :func:`train`: the summary, and the moving average of the trained parameters by name (empty without one)."""

    summary: TrainingSummary
    average: Mapping[str, Tensor]


def train(objective: Objective, source: BatchSource, plan: LoopPlan, context: Context) -> TrainingResult:
    """Train ``objective.module`` in place, from the newest checkpoint if there is one, and leave a checkpoint at the end.

    Invariants: a run resumed at any checkpoint ends bitwise equal (CPU, equal thread count) to one that was never interrupted;
    the loss curves of one and of several processes agree to float32 rounding. Raises AvprefError for a loss or gradient that is
    not finite; ConfigError for more ranks than samples in a batch, or a checkpoint of other settings.
    """
    if context.world > plan.loop.batch_size:
        found = f"{context.world} processes for a batch of {plan.loop.batch_size}"
        raise ConfigError(found, "at least one sample per process", "raise loop.batch_size or lower loop.num_processes")
    with torch_threads(plan.loop.num_threads):
        run = _Run(objective, source, plan, context, make_state(objective.module, plan))
        checkpoints = CheckpointFolder(plan.output / "checkpoints", plan.fingerprint, plan.loop.keep_checkpoints)
        first = checkpoints.resume(run.state)
        with MetricLog(plan.output, first, is_writer=context.is_first) as log:
            _run_steps(run, checkpoints, log, first)
        return TrainingResult(summarise(log.rows), run.state.average)


@dataclass(frozen=True)
class _Run:
    objective: Objective
    source: BatchSource
    plan: LoopPlan
    context: Context
    state: TrainingState

    def batches(self, first: int) -> Iterator[StepBatches]:
        """The batches of this rank for the steps from ``first`` on."""
        loop = self.plan.loop
        return step_batches(self.source, self.plan.seed, loop.batch_size, range(first, loop.steps), self.context)

    def step(self, step: int, batches: Sequence[FlowBatch]) -> tuple[LossAndMetrics, Tensor]:
        """Take one optimiser step on the summed gradients of ``batches``; return this rank's result and the gradient's norm
        before clipping.
        """
        plan, context, optimiser = self.plan, self.context, self.state.optimiser
        results = []
        for batch in batches:
            result = self.objective.compute(batch.to(context.device))
            (result.loss / plan.loop.batch_size).backward()
            results.append(result._replace(loss=result.loss.detach()))
        parameters = list(self.state.parameters.values())
        context.all_reduce_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, plan.optimiser.grad_clip)
        for group in optimiser.param_groups:
            group["lr"] = plan.lr(step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        _advance_average(self.state, plan.ema_decay)
        return joined(results), norm


def _run_steps(run: _Run, checkpoints: CheckpointFolder, log: MetricLog, first: int) -> None:
    loop = run.plan.loop
    metrics = MetricWindow(run.plan, run.context)
    for step, coming in enumerate(run.batches(first), first):
        metrics.add(*run.step(step, coming.batches), coming.wait_s)
        done = step + 1
        is_saving = done % loop.checkpoint_every == 0 or done == loop.steps
        if is_saving or done % loop.log_every == 0:
            metrics.flush(log, done)
        if is_saving and run.context.is_first:
            checkpoints.save(done, run.state)
        if is_saving:
            run.context.wait()


@torch.no_grad()
def _advance_average(state: TrainingState, decay: float) -> None:
    for name, average in state.average.items():
        average.lerp_(state.parameters[name], 1 - decay)


class MetricWindow:
    """Metrics of the steps since the last flush, summed per timestep bucket and kept on the device."""

    def __init__(self, plan: LoopPlan, context: Context) -> None:
        self._plan, self._context = plan, context
        self._edges = torch.tensor(TIMESTEP_EDGES, device=context.device)
        self._names: list[str] = []
        self._sums: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._started, self._wait_s = time.monotonic(), 0.0

    def add(self, result: LossAndMetrics, norm: Tensor, wait_s: float = 0.0) -> None:
        """Add one step: sums over this rank's samples and numbers of samples that count, [2 metrics, buckets].

        ``wait_s``: seconds that the step waited for its batches.
        """
        self._wait_s += wait_s
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

        Raises AvprefError for values that are not finite, StorageError.
        """
        assert self._sums, "a flush follows at least one step"
        sums = self._context.all_reduce_sum(torch.stack(self._sums))
        norms = torch.stack(self._norms).tolist()
        rows: list[MetricRow] = []
        for offset, (values, norm) in enumerate(zip(sums.sum(2).tolist(), norms, strict=True)):
            step = done - len(norms) + offset
            row = {"step": step + 1, "lr": self._plan.lr(step), "grad_norm": norm} | _means(self._names, values)
            _require_finite(row)
            rows.append(add_displacement(row, [*log.rows[-64:], *rows], self._plan.displacement_alarm))
        seconds = time.monotonic() - self._started
        rate = {
            "samples_per_s": len(rows) * self._plan.loop.batch_size / max(seconds, 1e-9),
            "data_wait_share": self._wait_s / max(seconds, 1e-9),
        }
        log.write(rows, _bucket_means(self._names, sums.sum(0)) | rate)
        self._context.on_progress(done, rows[-1])
        self._sums, self._norms, self._started, self._wait_s = [], [], time.monotonic(), 0.0


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
