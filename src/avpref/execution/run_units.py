"""One stage over shards of units: what every candidate stage has in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from avpref.config.executor_settings import Executor, InProcessExecutor, RayExecutor
from avpref.devices import resolved
from avpref.execution.contract import WorkerSpec
from avpref.execution.item_counts import ItemCounts, log_counts
from avpref.execution.plan import Shard
from avpref.execution.pool import open_pool
from avpref.execution.retry import Ladder
from avpref.execution.reuse import Reuse, ShardWork, Taken, compose, take_over
from avpref.execution.stage_observer import NoObserver, ShardDone, StageObserver
from avpref.observability.meters import StageMeter, Workers
from avpref.observability.progress import Progress
from avpref.observability.run_status import publishing_pass, subscribers
from avpref.storage.event_log import EventLog
from avpref.storage.unit import Unit
from avpref.storage.unit_files import CommittedUnits

MAX_TASKS = 64
"""Largest number of groups of shards that an observer sees in one pass over a stage, so that large runs report hundreds of tasks."""


NO_OBSERVER = NoObserver()


class Workplace(Protocol):
    """What a stage needs of the folder that it works for: who runs units, how many may be lost, where events go."""

    @property
    def executor(self) -> Executor:
        """Who runs units."""
        ...

    @property
    def max_quarantined_share(self) -> float:
        """The share of a stage's candidates that may be given up."""
        ...

    @property
    def events(self) -> EventLog:
        """The structured log."""
        ...


@dataclass(frozen=True)
class Stage:
    """A stage in progress: what drives its units, which of them were there at its beginning, and how far it is."""

    name: str
    ladder: Ladder
    progress: Progress
    lost_before: Mapping[str, int]
    reuse: Reuse | None = None


def run_shard(stage: Stage, shard: Shard, work: ShardWork) -> ShardDone:
    """Finish what is left of one shard; returns what it came to."""
    meter = stage.progress.meter
    start, lost_now = meter.snapshot(), meter.counts.quarantined
    stage.ladder.run(work.units)
    if stage.reuse:
        compose(stage.reuse, work)
    meter.end_shard()
    span = meter.since(start)
    lost = meter.counts.quarantined - lost_now + sum(stage.lost_before.get(unit.name, 0) for unit in shard.units)
    return ShardDone(
        shard=shard.ordinal,
        rows=shard.num_items - lost,
        items=shard.num_items,
        units=len(shard.units),
        made_now=work.num_items,
        quarantined=lost,
        seconds=round(span.seconds, 3),
        busy_actor_s=round(span.busy_s, 3),
        gpu_s=round(span.gpu_s, 3),
        p50_ms=span.p50_ms,
        p95_ms=span.p95_ms,
    )


def _run_shards(stage: Stage, shards: Sequence[Shard], taken: Taken, observer: StageObserver) -> list[ShardDone]:
    """Run shard after shard. More than :data:`MAX_TASKS` shards are observed in groups of neighbours."""
    size, done = -(-len(shards) // MAX_TASKS) or 1, []
    for start in range(0, len(shards), size):
        part = shards[start : start + size]
        with observer.shards_running(stage.name, part[0].ordinal, part[-1].ordinal):
            done += [run_shard(stage, shard, taken.work[shard.ordinal]) for shard in part]
    return done


class FinishedUnits(NamedTuple):
    """The finished units of a stage, in the plan's order, and the counts of their items."""

    units: list[Unit]
    counts: ItemCounts


@contextmanager
def _no_pool() -> Iterator[Any]:
    yield None


def run_stage(
    place: Workplace,
    name: str,
    files: CommittedUnits,
    shards: Sequence[Shard],
    spec: Callable[[], WorkerSpec],
    unit: str,
    executor: Executor | None = None,
    reuse: Reuse | None = None,
    observer: StageObserver = NO_OBSERVER,
) -> FinishedUnits:
    """Finish every unit of ``shards``; returns them in the plan's order, with the counts of their items.

    No pool is opened where nothing is missing. ``executor`` is the workplace's unless the stage has one of its own. With
    ``reuse`` items of a missing unit are first looked for in other files; ``spec`` is asked for its workers after that, and
    only where something is left to do. ``observer`` follows progress and shards.
    """
    executor = executor or place.executor
    units = [each for shard in shards for each in shard.units]
    if units:
        files.record_plan(name, units)
    lost = {each.name: files.quarantined([each]) for each in files.finished(units)}
    before = [row for rows in lost.values() for row in rows]
    taken = take_over(reuse, shards) if reuse else _missing(shards, lost.keys())
    left = [each for work in taken.work.values() for each in work.units]
    meter = _meter(name, unit, shards, executor, left, files)
    meter.add_quarantined(len(before))
    allowed = max(1, round(meter.counts.total * place.max_quarantined_share))
    watchers = subscribers(name, observer.listener)
    place.events.write(
        "units_planned",
        stage=name,
        items=meter.counts.total,
        units=meter.counts.units_total,
        present=meter.counts.present,
    )
    pool_of = open_pool(executor, spec(), files) if left else _no_pool()
    progress_of = partial(Progress, name, meter.counts.total, unit=unit, listener=watchers, meter=meter)
    with publishing_pass(watchers, meter), pool_of as pool, progress_of() as progress:
        ladder = Ladder(pool, files, place.events, progress.advance, allowed, before, meter)
        stage = Stage(name, ladder, progress, {each: len(rows) for each, rows in lost.items() if rows}, reuse)
        done = _run_shards(stage, shards, taken, observer)
    place.events.write("units_finished", stage=name, **_told(meter))
    items = reuse.counted or unit if reuse else unit
    lost_now = len(ladder.quarantined) - len(before)
    counts = ItemCounts(name, items, taken.missing, taken.present, dict(taken.reused), lost_now)
    log_counts(place.events, counts)
    observer.stage_finished(name, done)
    return FinishedUnits(units, counts)


def _meter(
    name: str, unit: str, shards: Sequence[Shard], executor: Executor, left: Sequence[Unit], files: CommittedUnits
) -> StageMeter:
    """The meter of a stage of which the units ``left`` are to be run; everything else is there."""
    units = [each for shard in shards for each in shard.units]
    total, missing = sum(shard.num_items for shard in shards), sum(len(each.items) for each in left)
    present = len(files.finished(units))
    pool = name.removeprefix(units[0].stage).strip("-") if units else ""
    meter = StageMeter(
        name,
        total,
        unit=unit,
        num_units=present + len(left),
        num_shards=len(shards),
        workers=_workers(executor, pool),
    )
    meter.add_present(total - missing, present)
    return meter


def _workers(executor: Executor, pool: str) -> Workers:
    """Who works in a pool; in this process one worker, which holds a GPU where the executor's device is one."""
    match executor:
        case InProcessExecutor():
            return Workers(pool or "main", 1, float(resolved(executor.device).startswith("cuda")))
        case RayExecutor():
            return Workers(pool or "main", executor.num_actors, executor.num_gpus_per_actor)


def _told(meter: StageMeter) -> dict[str, Any]:
    measure = meter.measure()
    names = ("done", "made", "quarantined", "elapsed_s", "busy_s", "gpu_s", "busy_share", "p50_ms", "p95_ms")
    found = {name: getattr(measure, name) for name in names}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def _missing(shards: Sequence[Shard], finished: Collection[str]) -> Taken:
    """The plan minus what exists."""
    taken = Taken()
    for shard in shards:
        work = ShardWork(tuple(unit for unit in shard.units if unit.name not in finished))
        taken.work[shard.ordinal] = work
        taken.missing += work.num_items
        taken.present += shard.num_items - work.num_items
    return taken
