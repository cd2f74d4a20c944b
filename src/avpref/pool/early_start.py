"""Starts Ray and its actors before a command imports the stages of a pool, so that the one does not wait for the other.

The actors import the modules of their workers while this process imports those of the stages, reads the configuration and lists the
sources. Only a pool that has scanned nothing yet is sure to have work for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from avpref.config.executor_settings import RayExecutor
from avpref.config.pool.pool_loading import load_pool
from avpref.config.pool.pool_settings import PoolConfig
from avpref.execution.kept_actors import actors_kept, start_actors
from avpref.execution.ray_session import ray_session

WORKER_MODULES = (
    "avpref.pool.scan.scan_worker",
    "avpref.pool.measure.measure_worker",
    "avpref.pool.measure.frame_measures",
    "avpref.pool.measure.sound_measures",
    "avpref.pool.measure.flow_measures",
    "avpref.pool.measure.sync_measures",
    "scipy.signal",
)
"""Modules of the workers of the stages ``scan`` and ``measure``. None of them imports torch, Ray or Prefect."""


@contextmanager
def started_early(
    config_path: Path, sources: Sequence[str] | None, pools: Path, overrides: Sequence[str]
) -> Iterator[None]:
    """Start the actors of a new pool that runs on a Ray of this machine, and stop them after the block; otherwise do nothing.

    Raises ConfigError for a configuration that cannot be used, and as :func:`avpref.execution.ray_session.join_ray`.
    """
    config = load_pool(config_path, overrides)
    if not is_sure_of_work(config, sources, pools):
        yield
        return
    with ray_session(), actors_kept():
        start_actors(config.executor, WORKER_MODULES)
        yield


def is_sure_of_work(config: PoolConfig, sources: Sequence[str] | None, pools: Path) -> bool:
    """Whether the pool runs on Ray actors, has scanned nothing yet, and has a source that may hold something."""
    names = list(sources or config.scan.sources)
    is_new = not (Path(pools) / config.run.name / "units").exists()
    return isinstance(config.executor, RayExecutor) and is_new and any(_may_hold(name) for name in names)


def _may_hold(name: str) -> bool:
    """Whether a source may hold recordings: an existing path, a pattern, or a bucket."""
    return "://" in name or any(character in name for character in "*?[") or Path(name).expanduser().exists()
