"""Units of work on actors: one small protocol with an in-process and a Ray implementation. The only file that starts Ray.

A worker commits its unit itself (see store.py); the pool only says that it did, or how it failed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from avpref.errors import ConfigError, InputError, MediaError, StorageError
from avpref.identity import digest
from avpref.settings import InProcessExecutor, RayExecutor

FATAL = (ConfigError, InputError, StorageError)
"""Errors that no retry can mend; a MediaError belongs to one clip and is not fatal."""
IN_FLIGHT_PER_ACTOR = 2
OBJECT_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Unit:
    """A few items that one actor call handles and one file commits. ``items`` are frozen dataclasses with an ``item_id``."""

    stage: str
    shard: int
    fingerprint: str
    items: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Derived file name: shard, and hash of what the unit covers. Equal plans give equal names."""
        return f"{self.shard:05d}-{digest([item.item_id for item in self.items], size=12)}"


@dataclass(frozen=True)
class Receipt:
    """What a worker says of a finished unit."""

    rows: int
    quarantined: int
    elapsed_s: float


@dataclass(frozen=True)
class Failure:
    """How a unit failed: the error's class and message, whether no retry can help, and whether the process died."""

    error: str
    message: str
    is_fatal: bool = False
    is_death: bool = False
    cause: Exception | None = None


@dataclass(frozen=True)
class Outcome:
    """A unit with its receipt or its failure. Exactly one is set, or neither where an innocent unit must be run again."""

    unit: Unit
    receipt: Receipt | None = None
    failure: Failure | None = None


class Worker(Protocol):
    """Runs units of one stage; built once per actor, so that weights load once."""

    def run(self, unit: Unit) -> Receipt:
        """Compute and commit one unit."""
        ...


class WorkerSpec(Protocol):
    """A picklable description of a worker."""

    def build(self) -> Worker:
        """Load what the worker needs."""
        ...


class Pool(Protocol):
    """Actors of one kind. ``capacity`` units may be in flight."""

    capacity: int

    def submit(self, unit: Unit) -> None:
        """Hand over a unit; only while fewer than ``capacity`` are in flight."""
        ...

    def next_done(self) -> Outcome:
        """Wait for any unit to end."""
        ...


def attempt(worker: Worker, unit: Unit) -> Outcome:
    """Run a unit and catch what it raises, so that an exception never looks like a dead process."""
    try:
        return Outcome(unit, receipt=worker.run(unit))
    except Exception as error:
        is_fatal = isinstance(error, FATAL) and not isinstance(error, MediaError)
        message = str(error) or traceback.format_exc(limit=-3)
        return Outcome(
            unit, failure=Failure(type(error).__name__, message, is_fatal, cause=error if is_fatal else None)
        )


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
        if self._worker is None:
            self._worker = self._spec.build()
        return attempt(self._worker, self._queue.popleft())


class RayPool:
    """Ray core actors, two units in flight each; a dead actor is replaced and gives its units back."""

    def __init__(self, spec: WorkerSpec, settings: RayExecutor) -> None:
        import ray

        self._ray = ray
        self._actor_class = ray.remote(_Actor).options(
            num_cpus=1,
            num_gpus=settings.num_gpus_per_actor or None,
            max_restarts=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}},
        )
        self._spec = spec
        self._actors = [self._actor_class.remote(spec) for _ in range(settings.num_actors)]
        self._flying: dict[Any, tuple[int, Unit]] = {}
        self._order: list[deque[Any]] = [deque() for _ in self._actors]
        self._lost: deque[Outcome] = deque()
        self.capacity = IN_FLIGHT_PER_ACTOR * settings.num_actors

    def submit(self, unit: Unit) -> None:
        """Send the unit to the actor with the fewest in flight."""
        slot = min(range(len(self._actors)), key=lambda index: len(self._order[index]))
        reference = self._actors[slot].run.remote(unit)
        self._flying[reference] = (slot, unit)
        self._order[slot].append(reference)

    def next_done(self) -> Outcome:
        """Wait for any unit; where its actor died, replace the actor."""
        if self._lost:
            return self._lost.popleft()
        ready, _ = self._ray.wait(list(self._flying), num_returns=1)
        slot, unit = self._flying[ready[0]]
        try:
            outcome = self._ray.get(ready[0])
        except self._ray.exceptions.RayActorError as error:
            return self._replace(slot, str(error))
        del self._flying[ready[0]]
        self._order[slot].remove(ready[0])
        return Outcome(unit, outcome.receipt, outcome.failure)

    def _replace(self, slot: int, message: str) -> Outcome:
        """New actor in ``slot``. Actors run in submission order, so only the oldest unit is to blame."""
        references = list(self._order[slot])
        self._order[slot].clear()
        units = [self._flying.pop(reference)[1] for reference in references]
        self._lost.extend(Outcome(unit) for unit in units[1:])
        self._actors[slot] = self._actor_class.remote(self._spec)
        return Outcome(units[0], failure=Failure("ActorDied", message, is_death=True))

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            self._ray.kill(actor)


class _Actor:
    """The Ray side: builds the worker once, runs units."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = spec.build()

    def run(self, unit: Unit) -> Outcome:
        return attempt(self._worker, unit)


@contextlib.contextmanager
def open_pool(settings: InProcessExecutor | RayExecutor, spec: WorkerSpec) -> Iterator[Pool]:
    """A pool of workers of ``spec`` for the length of the block."""
    match settings:
        case InProcessExecutor():
            yield InProcessPool(spec)
        case RayExecutor():
            _join_ray(settings)
            pool = RayPool(spec, settings)
            try:
                yield pool
            finally:
                pool.close()


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Shut Ray down at the end of the block if anything in it started Ray, and remove its temporary folder."""
    try:
        yield
    finally:
        import sys

        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()


def _join_ray(settings: RayExecutor) -> None:
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = settings.address or os.environ.get("RAY_ADDRESS", "")
    if address:
        ray.init(address=address, log_to_driver=False)
        return
    _sweep_old_sessions()
    ray.init(
        num_cpus=max(settings.num_actors, 1),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=_ray_folder(),
    )


def _ray_folder() -> str:
    """A short path of this user's own: Unix socket names have little room, and old sessions there are ours to remove."""
    return os.path.join(tempfile.gettempdir(), f"avpref-ray-{os.getuid()}")


def _sweep_old_sessions(keep_s: float = 24 * 3600) -> None:
    import shutil
    from pathlib import Path

    for session in Path(_ray_folder()).glob("session_*"):
        if session.is_dir() and not session.is_symlink() and time.time() - session.stat().st_mtime > keep_s:
            shutil.rmtree(session, ignore_errors=True)
