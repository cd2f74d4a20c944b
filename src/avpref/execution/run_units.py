"""Runs one pass over the units of a stage: reuse, pool, unit runner, progress and counts. All stages of units share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol

from avpref.config.executor_settings import Executor, InProcessExecutor, RayExecutor
from avpref.devices import resolved
from avpref.execution.contract import Pool, WorkerSpec
from avpref.execution.item_counts import ItemCounts, log_counts
from avpref.execution.plan import Shard, StagePlan
from avpref.execution.pool import EmptyPool, open_pool
from avpref.execution.retry import UnitRunner
from avpref.execution.reuse import RemainingWork, Reuse, ReusePlan, plan_without_reuse, reuse_items, write_compositions
from avpref.execution.stage_observer import NoObserver, ShardDone, StageObserver
from avpref.observability.meters import StageMeter, Workers
from avpref.observability.progress import Progress
from avpref.observability.run_status import publishing_pass, subscribers
from avpref.storage.event_log import EventLog
from avpref.storage.unit import ItemT, Unit
from avpref.storage.unit_files import CommittedUnits

MAX_TASKS = 64
"""Largest number of groups of shards that an observer sees in one pass, so that a large run does not report hundreds of tasks."""


NO_OBSERVER = NoObserver()


class StageContext(Protocol):
    """The run (or list of clips) that a stage works for, as far as this module needs it."""

    @property
    def executor(self) -> Executor:
        """The executor that runs units."""
        ...

    @property
    def max_quarantined_share(self) -> float:
        """Largest share of a stage's items that may be quarantined, from 0 to 1."""
        ...

    @property
    def events(self) -> EventLog:
        """The structured log."""
        ...


@dataclass(frozen=True)
class RunningStage(Generic[ItemT]):
    """A pass over a stage in progress. ``quarantined_before`` has the quarantined items of each unit finished before, by its name."""

    name: str
    runner: UnitRunner[ItemT]
    progress: Progress
    quarantined_before: Mapping[str, int]
    reuse: Reuse[ItemT] | None = None


def run_shard(
    stage: RunningStage[ItemT],
    shard: Shard[ItemT],
    work: RemainingWork[ItemT],
    following: Sequence[Unit[ItemT]] = (),
) -> ShardDone:
    """Finish the remaining work of a shard; returns its counts and times.

    Free workers begin units of ``following`` meanwhile, so the times of neighbouring shards are apart by up to the units in flight.
    """
    meter = stage.progress.meter
    start = meter.snapshot()
    stage.runner.run(work.units, following)
    if stage.reuse:
        write_compositions(stage.reuse, work)
    meter.end_shard()
    span = meter.since(start)
    item_ids = {item.item_id for unit in work.units for item in unit.items}
    quarantined = sum(row.candidate_id in item_ids for row in stage.runner.quarantined)
    quarantined += sum(stage.quarantined_before.get(unit.name, 0) for unit in shard.units)
    return ShardDone(
        shard=shard.ordinal,
        rows=shard.num_items - quarantined,
        items=shard.num_items,
        units=len(shard.units),
        made_now=work.num_items,
        quarantined=quarantined,
        seconds=round(span.seconds, 3),
        busy_actor_s=round(span.busy_s, 3),
        gpu_s=round(span.gpu_s, 3),
        p50_ms=span.p50_ms,
        p95_ms=span.p95_ms,
    )


def _run_shards(
    stage: RunningStage[ItemT], shards: Sequence[Shard[ItemT]], remaining: ReusePlan[ItemT], observer: StageObserver
) -> list[ShardDone]:
    """Run shard after shard. More than :data:`MAX_TASKS` shards are observed in groups of consecutive shards."""
    size = -(-len(shards) // MAX_TASKS) or 1
    work = [remaining.work[shard.ordinal] for shard in shards]
    following = [*(later.units for later in work[1:]), ()]
    done: list[ShardDone] = []
    for start in range(0, len(shards), size):
        group = slice(start, start + size)
        with observer.shards_running(stage.name, shards[start].ordinal, shards[group][-1].ordinal):
            done += map(partial(run_shard, stage), shards[group], work[group], following[group])
    return done


class FinishedUnits(NamedTuple, Generic[ItemT]):
    """The finished units of a stage, in the plan's order, and the counts of their items."""

    units: list[Unit[ItemT]]
    counts: ItemCounts


def run_stage(
    context: StageContext,
    plan: StagePlan[ItemT],
    files: CommittedUnits,
    spec: Callable[[], WorkerSpec[ItemT]],
    reuse: Reuse[ItemT] | None = None,
    observer: StageObserver = NO_OBSERVER,
) -> FinishedUnits[ItemT]:
    """Finish every unit of ``plan``; returns the units in the plan's order, with the counts of their items.

    Missing items are first searched for as ``reuse`` says. Only if units remain to be run, ``spec`` is called and a pool is
    opened. ``observer`` follows the progress and the shards. Raises CircuitOpen if too many items fail, the workers' fatal
    errors, and ClusterError as :func:`avpref.execution.pool.open_pool`.
    """
    units, name, executor = plan.units, plan.name, plan.executor or context.executor
    if units:
        files.record_plan(name, units)
    rows_before = {unit.name: files.quarantined([unit]) for unit in files.finished(units)}
    quarantined_before = [row for rows in rows_before.values() for row in rows]
    remaining = reuse_items(reuse, plan) if reuse else plan_without_reuse(plan, rows_before.keys())
    to_run = remaining.units
    meter = _meter(plan, executor, len(files.finished(units)), to_run)
    meter.add_quarantined(len(quarantined_before))
    max_quarantined = max(1, round(meter.counts.total * context.max_quarantined_share))
    listeners = subscribers(name, observer.listener)
    context.events.write(
        "units_planned",
        stage=name,
        items=meter.counts.total,
        units=meter.counts.units_total,
        present=meter.counts.present,
    )
    opened: AbstractContextManager[Pool[ItemT]]
    opened = open_pool(executor, spec(), files) if to_run else nullcontext(EmptyPool())
    progress_of = partial(Progress, name, meter.counts.total, unit=plan.item_noun, listener=listeners, meter=meter)
    with publishing_pass(listeners, meter), opened as pool, progress_of() as progress:
        runner = UnitRunner(pool, files, context.events, progress.advance, max_quarantined, quarantined_before, meter)
        counts_before = {unit: len(rows) for unit, rows in rows_before.items() if rows}
        stage = RunningStage(name, runner, progress, counts_before, reuse)
        done = _run_shards(stage, plan.shards, remaining, observer)
    context.events.write("units_finished", stage=name, **_totals(meter))
    item_noun = reuse.item_noun or plan.item_noun if reuse else plan.item_noun
    quarantined_now = len(runner.quarantined) - len(quarantined_before)
    counts = ItemCounts(name, item_noun, remaining.missing, remaining.present, dict(remaining.reused), quarantined_now)
    log_counts(context.events, counts)
    observer.stage_finished(name, done)
    return FinishedUnits(units, counts)


def _meter(plan: StagePlan[ItemT], executor: Executor, num_present: int, to_run: Sequence[Unit[ItemT]]) -> StageMeter:
    """The meter of a pass in which ``num_present`` planned units are finished and the units ``to_run`` are not."""
    first = next((unit for shard in plan.shards for unit in shard.units), None)
    pool = plan.name.removeprefix(first.stage).strip("-") if first else ""
    meter = StageMeter(
        plan.name,
        plan.num_items,
        unit=plan.item_noun,
        num_units=num_present + len(to_run),
        num_shards=len(plan.shards),
        workers=_workers(executor, pool),
    )
    num_missing = sum(len(unit.items) for unit in to_run)
    meter.add_present(plan.num_items - num_missing, num_present)
    return meter


def _workers(executor: Executor, pool: str) -> Workers:
    """The workers of a pool. In this process there is one, which holds a GPU if the executor's device is one."""
    match executor:
        case InProcessExecutor():
            return Workers(pool or "main", 1, float(resolved(executor.device).startswith("cuda")))
        case RayExecutor():
            return Workers(pool or "main", executor.num_actors, executor.num_gpus_per_actor)


def _totals(meter: StageMeter) -> dict[str, Any]:
    """Fields of the event that ends a pass: its counts and times, rounded."""
    measure = meter.measure()
    names = ("done", "made", "quarantined", "elapsed_s", "busy_s", "gpu_s", "busy_share", "p50_ms", "p95_ms")
    values = {name: getattr(measure, name) for name in names}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
