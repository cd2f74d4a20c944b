"""One stage over shards of units: what every candidate stage has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from avpref.cluster import Unit, WorkerSpec, open_pool
from avpref.datasets.rows import QuarantineRow
from avpref.datasets.tables import Table
from avpref.flows import reporting
from avpref.flows.ladder import Ladder
from avpref.flows.plan import Shard
from avpref.flows.run_folder import RunFolder
from avpref.flows.units import UnitFiles
from avpref.logs import Progress


@dataclass(frozen=True)
class Stage:
    """A stage in progress: where its units are committed, what drives them, and how far it is."""

    name: str
    files: UnitFiles
    ladder: Ladder
    progress: Progress


@task(name="shard", task_run_name="{stage.name}-{shard.ordinal}", cache_policy=NO_CACHE, persist_result=False)
def run_shard(stage: Stage, shard: Shard) -> int:
    """Finish the missing units of one shard; returns how many items the shard has."""
    missing = [unit for unit in shard.units if not stage.files.exists(unit)]
    stage.progress.skip(shard.num_items - sum(len(unit.items) for unit in missing))
    stage.ladder.run(missing)
    return shard.num_items


@contextmanager
def _no_pool() -> Iterator[Any]:
    yield None


def run_stage(
    folder: RunFolder, name: str, table: Table, shards: Sequence[Shard], spec: Callable[[], WorkerSpec], unit: str
) -> list[Unit]:
    """Finish every unit of ``shards`` and return them in the plan's order. No pool is opened where nothing is missing."""
    units = [each for shard in shards for each in shard.units]
    files = folder.units(table)
    total = sum(shard.num_items for shard in shards)
    finished = [each for each in units if files.exists(each)]
    pool_of = _no_pool() if len(finished) == len(units) else open_pool(folder.settings.executor, spec())
    allowed = max(1, round(total * folder.settings.run.max_quarantined_share))
    with pool_of as pool, Progress(name, total, unit=unit, listener=reporting.listener()) as progress:
        ladder = Ladder(pool, files, folder.events, progress.advance, allowed, files.quarantined(finished))
        stage = Stage(name, files, ladder, progress)
        for shard in shards:
            reporting.call(run_shard, stage, shard)
    return units


def quarantine_of(folder: RunFolder, table: Table, units: Sequence[Unit]) -> list[QuarantineRow]:
    """What the units gave up on."""
    return folder.units(table).quarantined(units)
