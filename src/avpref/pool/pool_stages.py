"""All stages of a pool, for a command and for the flow of a schedule. Only what is missing is computed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avpref.config.pool.pool_loading import load_pool, with_installed_scorers
from avpref.config.pool.pool_settings import PoolConfig
from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.execution.kept_actors import actors_kept
from avpref.execution.ray_session import ray_session
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.run_reporting import Stage
from avpref.observability.run_status import publishing, publishing_stage
from avpref.pool.caption.caption_stage import caption
from avpref.pool.cut.cut_stage import cut
from avpref.pool.filter.filter_stage import filter_clips
from avpref.pool.funnel import funnel
from avpref.pool.lost_items import read_lost
from avpref.pool.measure.measure_stage import measure
from avpref.pool.measure.measurers import measurers
from avpref.pool.pool_folder import PoolFolder, create_pool
from avpref.pool.scan.scan_stage import scan
from avpref.pool.write.write_stage import write

STAGES: tuple[Stage[PoolFolder], ...] = (scan, cut, measure, caption, filter_clips, write)
"""The stages in their order."""
STAGE_BY_NAME = {stage.name: stage for stage in STAGES}


@dataclass(frozen=True)
class StageResult:
    """A finished stage: rows of its result, seconds, and sentences about its items."""

    stage: str
    rows: int
    seconds: float
    items: tuple[str, ...]


def build_pool(
    config_path: str,
    pools: str = "pools",
    sources: list[str] | None = None,
    overrides: list[str] | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Run all stages of the pool of a configuration file; ``sources`` replaces ``scan.sources``."""
    pool = create_pool(Path(pools), configured(config_path, sources, overrides))
    parameters = {"config_path": config_path, "pools": pools, "sources": sources, "overrides": overrides, "wait": wait}
    with reporting.execution("pool-build", parameters, pool.config.reporting), owned(pool, wait):
        results = run_stages(pool, STAGES)
        document = summary(pool, results)
        reporting.table("pool-funnel", [dict(step) for step in document["funnel"]], f"funnel of pool {pool.root.name}")
    return document


def configured(config_path: str, sources: Sequence[str] | None, overrides: Sequence[str] | None) -> PoolConfig:
    """The configuration with ``sources`` in place of ``scan.sources``. Raises ConfigError, also for a measurer that cannot be used."""
    config = load_pool(config_path, overrides or ())
    if sources:
        scan_settings = config.scan.model_copy(update={"sources": tuple(sources)})
        config = config.model_copy(update={"scan": scan_settings})
    measurers(config.measure, config.executor)
    return with_installed_scorers(config)


@contextmanager
def owned(pool: PoolFolder, wait: bool = False) -> Iterator[None]:
    """Own the pool's folder and any Ray session that is started in the block. Raises StorageError where another command owns it."""
    with pool.locked(wait), ray_session(), actors_kept(), publishing(pool):
        yield


def run_stages(pool: PoolFolder, stages: Sequence[Stage[PoolFolder]]) -> list[StageResult]:
    """Run ``stages`` one after another; raises their errors, and what was finished stays finished."""
    return [_run(pool, stage) for stage in stages]


def _run(pool: PoolFolder, stage: Stage[PoolFolder]) -> StageResult:
    started = time.monotonic()
    with publishing_stage(pool, stage.name):
        counts: StageCounts = stage(pool)
    seconds = round(time.monotonic() - started, 3)
    pool.events.write("stage_finished", stage=stage.name, rows=counts.rows, seconds=seconds)
    reporting.note(f"{stage.name}: {counts.rows} rows, {seconds:.1f} s")
    return StageResult(stage.name, counts.rows, seconds, tuple(_sentence(item) for item in counts.items))


def _sentence(counts: ItemCounts) -> str:
    return counts.sentence


def _num_failed(pool: PoolFolder, stage: str) -> int:
    """Items that ``stage`` could not process; for ``scan`` also the names and sources that it refused."""
    number = len(read_lost(pool, stage))
    if stage == scan.name:
        with pool.connect() as con:
            row = con.execute("SELECT count(*) FROM sources WHERE status <> 'ok'").fetchone()
        number += 0 if row is None else int(row[0])
    return number


def summary(pool: PoolFolder, results: Sequence[StageResult]) -> dict[str, Any]:
    """The document that commands print: stages, the funnel, and the number of items that each of the stages could not process."""
    counted, names = funnel(pool), [result.stage for result in results]
    return {
        "pool": pool.root.name,
        "pool_dir": str(pool.root),
        "stages": [asdict(result) for result in results],
        "funnel": [asdict(step) for step in counted.steps],
        "filters": [asdict(effect) for effect in counted.filters],
        "failed": {name: number for name in names if (number := _num_failed(pool, name))},
    }
