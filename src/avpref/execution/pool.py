"""Pools of workers: one in this process, or Ray actors (:mod:`avpref.execution.ray_pool`)."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.execution.contract import Committed, Outcome, Pool, Worker, WorkerSpec, after_building, attempt
from avpref.execution.ray_session import join_ray
from avpref.storage.unit import Unit


class InProcessPool:
    """Runs units in the calling process, one after the other."""

    capacity = 1

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None
        self._queue: deque[Unit] = deque()

    def submit(self, unit: Unit) -> None:
        """Remember the unit; it runs in :meth:`next_done`."""
        self._queue.append(unit)

    def next_done(self) -> Outcome:
        """Run the oldest unit."""
        built_s = 0.0
        if self._worker is None:
            started = time.perf_counter()
            self._worker = self._spec.build()
            built_s = time.perf_counter() - started
        return after_building(attempt(self._worker, self._queue.popleft()), built_s)


@contextlib.contextmanager
def open_pool(
    settings: InProcessExecutor | RayExecutor, spec: WorkerSpec, files: Committed | None = None
) -> Iterator[Pool]:
    """A pool of workers of ``spec`` for the length of the block.

    ``files`` is where workers commit: actors show that they and this process see the same folder.
    Raises ClusterError where the cluster cannot be joined or has no room for an actor.
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
