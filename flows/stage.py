"""One stage over shards of units: what every candidate stage has in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from prefect import task
from prefect.cache_policies import NO_CACHE

from avpref.cluster import Unit, WorkerSpec, open_pool
from avpref.flows import reporting
from avpref.flows.ladder import Ladder
from avpref.flows.plan import Shard
from avpref.flows.reuse import Reuse, ShardWork, Taken, compose, take_over
from avpref.flows.tally import Tally, record
from avpref.flows.units import CommittedUnits
from avpref.logs import EventLog, Progress
from avpref.settings import Executor


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
    """A stage in progress: where its units are committed, what drives them, and how far it is."""

    name: str
    files: CommittedUnits
    ladder: Ladder
    progress: Progress
    reuse: Reuse | None = None


@dataclass(frozen=True)
class ShardDone:
    """What finishing a shard came to; a row of the stage's table artifact."""

    shard: int
    items: int
    units: int
    made_now: int
    quarantined: int
    seconds: float


@task(name="shard", task_run_name="{stage.name}-{shard.ordinal}", cache_policy=NO_CACHE, persist_result=False)
def run_shard(stage: Stage, shard: Shard, work: ShardWork) -> ShardDone:
    """Finish what is left of one shard; returns what it came to."""
    started = time.monotonic()
    made_now = work.num_items
    stage.progress.skip(shard.num_items - made_now)
    stage.ladder.run(work.units)
    if stage.reuse:
        compose(stage.reuse, work)
    lost = len(stage.files.quarantined(shard.units))
    took_s = round(time.monotonic() - started, 3)
    return ShardDone(shard.ordinal, shard.num_items, len(shard.units), made_now, lost, took_s)


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
) -> list[Unit]:
    """Finish every unit of ``shards`` and return them in the plan's order. No pool is opened where nothing is missing.

    ``executor`` is the workplace's unless the stage has one of its own. With ``reuse`` items of a missing unit are first looked
    for in other files; ``spec`` is asked for its workers after that, and only where something is left to do.
    """
    units = [each for shard in shards for each in shard.units]
    total = sum(shard.num_items for shard in shards)
    finished = [each for each in units if files.exists(each)]
    quarantined = files.quarantined(finished)
    taken = take_over(reuse, shards) if reuse else _missing(files, shards)
    is_done = not any(work.units for work in taken.work.values())
    pool_of = _no_pool() if is_done else open_pool(executor or place.executor, spec())
    allowed = max(1, round(total * place.max_quarantined_share))
    with pool_of as pool, Progress(name, total, unit=unit, listener=reporting.listener()) as progress:
        ladder = Ladder(pool, files, place.events, progress.advance, allowed, quarantined)
        stage = Stage(name, files, ladder, progress, reuse)
        done = [reporting.call(run_shard, stage, shard, taken.work[shard.ordinal]) for shard in shards]
    lost = len(ladder.quarantined) - len(quarantined)
    items = reuse.counted or unit if reuse else unit
    record(place.events, Tally(name, items, taken.missing, taken.present, dict(taken.reused), lost))
    reporting.table(f"{name}-shards", [asdict(each) for each in done], f"{len(units)} units of stage {name}, by shard")
    return units


def _missing(files: CommittedUnits, shards: Sequence[Shard]) -> Taken:
    """The plan minus what exists."""
    taken = Taken()
    for shard in shards:
        work = ShardWork(tuple(unit for unit in shard.units if not files.exists(unit)))
        taken.work[shard.ordinal] = work
        taken.missing += work.num_items
        taken.present += shard.num_items - work.num_items
    return taken
