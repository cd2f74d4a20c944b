"""Units of work on actors: one small protocol with an in-process and a Ray implementation. The only file that starts Ray.

A worker commits its unit itself (see store.py); the pool only says that it did, or how it failed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from avpref.errors import AvprefError, ConfigError, InputError, MediaError, StorageError
from avpref.identity import digest
from avpref.moments import Moment, reached
from avpref.settings import InProcessExecutor, RayExecutor
from avpref.store import NO_ROOM, storage_error

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
        receipt = worker.run(unit)
        reached(Moment.UNIT_COMMITTED)
        return Outcome(unit, receipt=receipt)
    except Exception as error:
        found = _as_storage_error(error)
        is_fatal = isinstance(found, FATAL) and not isinstance(found, MediaError)
        return Outcome(unit, failure=_failure(found, is_fatal))


def _as_storage_error(error: Exception) -> Exception:
    """A full or read-only disk is no candidate's fault, whichever library met it; all other errors stay as they are."""
    if isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EROFS):
        return storage_error(Path(str(error.filename or tempfile.gettempdir())), error)
    return error


def _failure(error: Exception, is_fatal: bool) -> Failure:
    """What is told of ``error``. Only our own errors travel whole: others may not survive the way between processes."""
    message = str(error) or "".join(traceback.format_exception(error, limit=-3))
    cause = error if is_fatal and isinstance(error, AvprefError) else None
    return Failure(type(error).__name__, message, is_fatal, cause=cause)


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
            runtime_env={
                "env_vars": {
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
                }
            },
        )
        self._spec = spec
        self._actors: list[Any] = [self._actor_class.remote(spec) for _ in range(settings.num_actors)]
        self._flying: dict[Any, tuple[int, Unit]] = {}
        self._order: list[deque[Any]] = [deque() for _ in self._actors]
        self._ended: deque[Outcome] = deque()
        self._death = ""
        self.capacity = IN_FLIGHT_PER_ACTOR * settings.num_actors

    def submit(self, unit: Unit) -> None:
        """Send the unit to the actor with the fewest in flight."""
        slot = min(range(len(self._actors)), key=lambda index: len(self._order[index]))
        reference = self._actors[slot].run.remote(unit)
        self._flying[reference] = (slot, unit)
        self._order[slot].append(reference)

    def next_done(self) -> Outcome:
        """Wait for any unit; where its actor died, replace the actor."""
        if self._ended:
            return self._ended.popleft()
        ready, _ = self._ray.wait(list(self._flying), num_returns=1)
        slot, unit = self._flying[ready[0]]
        outcome = self._result(ready[0], unit)
        if outcome is None:
            self._replace(slot)
            return self._ended.popleft()
        del self._flying[ready[0]]
        self._order[slot].remove(ready[0])
        return outcome

    def _result(self, reference: Any, unit: Unit) -> Outcome | None:
        """How the unit ended; None where its actor died first."""
        errors = self._ray.exceptions
        try:
            outcome = self._ray.get(reference)
        except (errors.RayActorError, errors.OutOfMemoryError) as error:
            self._death = str(error)
            return None
        except errors.RayError as error:  # the answer, or the unit, did not survive the way between processes
            return Outcome(unit, failure=_failure(error, is_fatal=False))
        return Outcome(unit, outcome.receipt, outcome.failure)

    def _replace(self, slot: int) -> None:
        """New actor in ``slot``. Actors run in submission order, so only the oldest unfinished unit is to blame."""
        self._ray.kill(self._actors[slot])  # it may be out of reach rather than dead
        is_blamed = False
        for reference in self._order[slot]:
            unit = self._flying.pop(reference)[1]
            outcome = self._result(reference, unit)
            if outcome is None and not is_blamed:
                outcome, is_blamed = Outcome(unit, failure=Failure("ActorDied", self._death, is_death=True)), True
            self._ended.append(outcome or Outcome(unit))
        self._order[slot].clear()
        self._actors[slot] = self._actor_class.remote(self._spec)

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            self._ray.kill(actor)


class _Actor:
    """The Ray side: builds the worker with the first unit, so that an error there is told like any other; runs units."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None

    def run(self, unit: Unit) -> Outcome:
        if self._worker is None:
            try:
                self._worker = self._spec.build()
            except Exception as error:
                return Outcome(unit, failure=_failure(error, is_fatal=True))
        return attempt(self._worker, unit)


@contextlib.contextmanager
def open_pool(settings: InProcessExecutor | RayExecutor, spec: WorkerSpec) -> Iterator[Pool]:
    """A pool of workers of ``spec`` for the length of the block."""
    match settings:
        case InProcessExecutor():
            yield InProcessPool(spec)
        case RayExecutor():
            join_ray(settings)
            pool = RayPool(spec, settings)
            try:
                yield pool
            finally:
                pool.close()


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Shut Ray down at the end of the block if it was started inside; its files stay for the reader if the block failed."""
    if _is_ray_running():
        yield
        return
    try:
        yield
    finally:
        has_started = _is_ray_running()
        if has_started:
            sys.modules["ray"].shutdown()
    if has_started:
        for session in Path(_ray_folder()).glob(f"session_*_{os.getpid()}"):
            shutil.rmtree(session, ignore_errors=True)


def _is_ray_running() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def join_ray(settings: RayExecutor) -> None:
    """Use the Ray that this process already has, or join the configured cluster, or start one on this machine."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray gives way to everything else on the machine
    address = settings.address or os.environ.get("RAY_ADDRESS", "")
    if address:
        ray.init(address=address, log_to_driver=False)
        return
    _sweep_old_sessions(Path(_ray_folder()))
    in_pools = sum(pool.num_actors for _, pool in settings.pools) if settings.scoring == "pools" else 0
    ray.init(
        num_cpus=max(settings.num_actors, in_pools),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=_ray_folder(),
    )


def _ray_folder() -> str:
    """A short path of this user's own: Unix socket names have little room, and old sessions there are ours to remove."""
    return os.path.join(tempfile.gettempdir(), f"avpref-ray-{os.getuid()}")


def _sweep_old_sessions(folder: Path, keep_s: float = 24 * 3600) -> None:
    """Remove what ended processes' Ray sessions left in ``folder``; a session's name ends with its driver's process id."""
    for session in folder.glob("session_*_*"):
        driver = session.name.rpartition("_")[2]
        is_ended = driver.isdecimal() and not session.is_symlink() and not _is_alive(int(driver))
        if is_ended and time.time() - session.stat().st_mtime > keep_s:
            shutil.rmtree(session, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
