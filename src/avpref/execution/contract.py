"""The contract between a pool and its workers: what a worker returns of a unit, and what a pool says of it.

A worker commits its unit itself (see :mod:`avpref.storage.local_files`); the pool reports only that it did, or how it failed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from avpref.errors import AvprefError, ClusterError, ConfigError, InputError, MediaError, StorageError
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.files import Files
from avpref.storage.local_files import NO_ROOM, storage_error
from avpref.storage.unit import Unit

FATAL = (ClusterError, ConfigError, InputError, StorageError)
"""Errors that no retry can mend; a MediaError belongs to one clip and is not fatal."""


NOTES_PER_UNIT = 20


_PLACE = "process {} on " + socket.gethostname()


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
    def store(self) -> Files:
        """The store of the units' files."""
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
            hit(FailPoint.UNIT_COMMITTED)
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


def after_building(outcome: Outcome, built_s: float) -> Outcome:
    """The outcome of a worker's unit, with the seconds for which the worker was loaded before it."""
    return replace(outcome, work=replace(outcome.work, build_s=built_s)) if built_s else outcome
