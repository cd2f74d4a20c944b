"""Pools of workers: in this process, or on Ray actors (:mod:`avpref.execution.ray_pool`)."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Generic

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.execution.contract import Pool, UnitOutcome, UnitStore, Worker, WorkerSpec, run_and_catch
from avpref.execution.ray_session import join_ray
from avpref.storage.unit import Item, ItemT, Unit


class InProcessPool(Generic[ItemT]):
    """Runs units in the calling process, one after the other. The worker is built before the first unit."""

    capacity = 1

    def __init__(self, spec: WorkerSpec[ItemT]) -> None:
        self._spec = spec
        self._worker: Worker[ItemT] | None = None
        self._queue: deque[Unit[ItemT]] = deque()

    def submit(self, unit: Unit[ItemT]) -> None:
        """Keep the unit until :meth:`next_done` runs it."""
        self._queue.append(unit)

    def next_done(self) -> UnitOutcome:
        """Run the oldest unit. Raises what building the worker raises."""
        build_s = 0.0
        if self._worker is None:
            started = time.perf_counter()
            self._worker = self._spec.build()
            build_s = time.perf_counter() - started
        return run_and_catch(self._worker, self._queue.popleft()).with_build_time(build_s)


class EmptyPool:
    """A pool without workers, for a stage whose units are all finished."""

    capacity = 0

    def submit(self, unit: Unit[Item]) -> None:
        """Raise AssertionError: there is no worker."""
        raise AssertionError(f"unit {unit.name} of stage {unit.stage} was submitted to a pool without workers")

    def next_done(self) -> UnitOutcome:
        """Raise AssertionError: no unit is in flight."""
        raise AssertionError("a pool without workers has no unit in flight")


@contextlib.contextmanager
def open_pool(
    settings: InProcessExecutor | RayExecutor, spec: WorkerSpec[ItemT], files: UnitStore | None = None
) -> Iterator[Pool[ItemT]]:
    """A pool of workers of ``spec`` for the duration of the block.

    ``files`` is where workers commit: every actor is checked to write to the folder that this process sees.
    Raises ClusterError if the cluster cannot be joined or has no capacity for an actor.
    """
    match settings:
        case InProcessExecutor():
            yield InProcessPool(spec)
        case RayExecutor():
            join_ray(settings)
            from avpref.execution.ray_pool import RayPool

            pool = RayPool(spec, settings, files)
            try:
                yield pool
            finally:
                pool.close()
