"""Units of work on actors: one small protocol with an in-process and a Ray implementation, and joining or starting Ray.

A worker commits its unit itself (see store.py); the pool only says that it did, or how it failed. The pool of Ray actors
is in ray_pool.py; a unit carries names, ids and seeds, and never a clip.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from avpref.config.schema import InProcessExecutor, RayExecutor
from avpref.errors import AvprefError, ClusterError, ConfigError, InputError, MediaError, StorageError
from avpref.identity import digest
from avpref.storage.failpoints import Moment, reached
from avpref.storage.files import Files
from avpref.storage.local_files import NO_ROOM, storage_error

FATAL = (ClusterError, ConfigError, InputError, StorageError)
"""Errors that no retry can mend; a MediaError belongs to one clip and is not fatal."""
NOTES_PER_UNIT = 20
_PLACE = "process {} on " + socket.gethostname()
OBJECT_STORE_BYTES = 100 * 2**20
CLIENT_SCHEME = "ray://"


@dataclass(frozen=True)
class Unit:
    """A few items that one actor call handles and one file commits. ``items`` are frozen dataclasses with an ``item_id``."""

    stage: str
    shard: int
    fingerprint: str
    items: tuple[Any, ...]

    @cached_property
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
class Note:
    """What a worker logged while it ran a unit: level (``WARNING``), logger, message."""

    level: str
    source: str
    message: str


@dataclass(frozen=True)
class Work:
    """A worker's side of a unit: seconds of work (those of loading the worker apart), process and machine, notes."""

    run_s: float = 0.0
    build_s: float = 0.0
    place: str = ""
    notes: tuple[Note, ...] = ()

    @property
    def busy_s(self) -> float:
        """Seconds in which the worker was at work."""
        return self.run_s + self.build_s


@dataclass(frozen=True)
class Outcome:
    """A unit with its receipt or its failure. Exactly one is set, or neither where an innocent unit must be run again."""

    unit: Unit
    receipt: Receipt | None = None
    failure: Failure | None = None
    work: Work = Work()


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


class Committed(Protocol):
    """Where workers commit: what a pool asks to tell who is to blame for a death, and whether all see one folder."""

    @property
    def place(self) -> Files:
        """Where the files of units are."""
        ...

    def exists(self, unit: Unit) -> bool:
        """Whether the unit is done."""
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
    started = time.perf_counter()
    with _listening() as notes:
        try:
            outcome = Outcome(unit, receipt=worker.run(unit))
            reached(Moment.UNIT_COMMITTED)
        except Exception as error:
            found = _as_storage_error(error)
            is_fatal = isinstance(found, FATAL) and not isinstance(found, MediaError)
            outcome = Outcome(unit, failure=failure_of(found, is_fatal))
    work = Work(time.perf_counter() - started, place=_PLACE.format(os.getpid()), notes=tuple(notes))
    return replace(outcome, work=work)


class _Notes(logging.Handler):
    """Keeps the first warnings of the thread that it was made in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.notes: list[Note] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        if record.thread == self._thread and len(self.notes) < NOTES_PER_UNIT:
            self.notes.append(Note(record.levelname, record.name, record.getMessage()))


@contextlib.contextmanager
def _listening() -> Iterator[list[Note]]:
    """What is logged in the block from ``WARNING`` upwards, by whatever library."""
    handler = _Notes()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.notes
    finally:
        logging.getLogger().removeHandler(handler)


def _as_storage_error(error: Exception) -> Exception:
    """A full or read-only disk is no candidate's fault, whichever library met it; all other errors stay as they are."""
    if isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EROFS):
        return storage_error(Path(str(error.filename or tempfile.gettempdir())), error)
    return error


def failure_of(error: Exception, is_fatal: bool) -> Failure:
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
        built_s = 0.0
        if self._worker is None:
            started = time.perf_counter()
            self._worker = self._spec.build()
            built_s = time.perf_counter() - started
        return after_building(attempt(self._worker, self._queue.popleft()), built_s)


def after_building(outcome: Outcome, built_s: float) -> Outcome:
    """The outcome of a worker's unit, with the seconds for which the worker was loaded before it."""
    return replace(outcome, work=replace(outcome.work, build_s=built_s)) if built_s else outcome


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
    """Use the Ray that this process already has, or join the configured cluster, or start one on this machine.

    Raises ClusterError where the cluster does not answer or refuses this process, ConfigError where its address is empty.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray gives way to everything else on the machine
    address = cluster_address(settings)
    if address:
        _join(address)
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


def cluster_address(settings: RayExecutor) -> str:
    """The cluster that is to be joined; empty where Ray is to be started on this machine.

    Raises ConfigError where ``RAY_ADDRESS`` is set and empty: a cluster was meant, and starting another would hide that.
    """
    if settings.address:
        return settings.address
    address = os.environ.get("RAY_ADDRESS")
    if address is not None and not address.strip():
        raise ConfigError(
            "the variable RAY_ADDRESS is set, but empty",
            "the address of the Ray cluster to join (host:6379, or auto on one of its machines), or no such variable:"
            " then Ray starts on this machine",
            "unset RAY_ADDRESS, or: export RAY_ADDRESS=auto",
        )
    return address or ""


def _join(address: str) -> None:
    import ray

    if address.startswith(CLIENT_SCHEME):
        raise ClusterError(
            f"{address} is an address of the Ray client",
            "the address of the cluster's control store, host:6379, on a machine that shares the run folder with the actors",
            "run the command on a machine of the cluster (as a Ray job): RAY_ADDRESS=auto avpref retrain …",
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"no Ray cluster could be joined at {address}: {error}",
            "a running cluster of the same Ray and Python version, whose token this user has",
            "ray status --address ADDRESS; the token (`ray get-auth-token` on the head) goes into RAY_AUTH_TOKEN,"
            " with RAY_AUTH_MODE=token",
        ) from error


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
