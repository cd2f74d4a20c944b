"""The work of ``avpref pool build`` and of the commands of single stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref.config.pool.pool_settings import PoolConfig
from avpref.pool.pool_folder import create_pool, list_pools, open_pool_folder
from avpref.pool.pool_stages import STAGE_BY_NAME, build_pool, configured, owned, run_stages, summary


def build(
    config: Path, sources: Sequence[str] | None, pools: Path, overrides: Sequence[str], wait: bool
) -> dict[str, Any]:
    """Run all stages; returns their results, the funnel, and the numbers of failed items."""
    return build_pool(str(config), str(pools), list(sources or []), list(overrides), wait)


def with_recorded_sources(pools: Path, config: PoolConfig) -> PoolConfig:
    """``config`` with the sources that the pool recorded, where it names none: stages after ``scan`` need none."""
    if config.scan.sources or config.run.name not in list_pools(pools):
        return config
    recorded = open_pool_folder(pools, config.run.name).config.scan.sources
    return config.model_copy(update={"scan": config.scan.model_copy(update={"sources": recorded})})


def run_stage(
    name: str, config: Path, sources: Sequence[str] | None, pools: Path, overrides: Sequence[str]
) -> dict[str, Any]:
    """Run the stage ``name``; returns as :func:`build`. Raises InputError where an earlier stage has not run."""
    pool = create_pool(pools, with_recorded_sources(pools, configured(str(config), sources, overrides)))
    with owned(pool):
        return summary(pool, run_stages(pool, [STAGE_BY_NAME[name]]))
