"""The contract between pools and workers.

A worker computes a unit and commits its file itself (see :mod:`avpref.storage.local_files`). A pool reports only that the
unit is committed, or how it failed.
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
from avpref.storage.unit import Item, ItemT, ItemT_contra, Unit

FATAL_ERRORS = (ClusterError, ConfigError, InputError, StorageError)
"""Errors that a retry cannot fix. A MediaError is an InputError of one clip and is not fatal."""

MAX_NOTES_PER_UNIT = 20
"""Largest number of log messages that a worker returns with a unit."""

_PROCESS = "process {} on " + socket.gethostname()


@dataclass(frozen=True)
class Receipt:
    """Result of a finished unit: rows committed, items quarantined by the worker, seconds."""

    rows: int
    quarantined: int
    elapsed_s: float


@dataclass(frozen=True)
class Failure:
    """Why a unit failed.

    Attributes:
        error: name of the error's class, or ``ActorDied`` or ``TimedOut``.
        message: the error's text.
        is_fatal: whether a retry cannot succeed, so that the run must stop.
        is_death: whether the worker's process died or was killed.
        cause: the error itself, if it is fatal and one of this product's.
    """

    error: str
    message: str
    is_fatal: bool = False
    is_death: bool = False
    cause: Exception | None = None


@dataclass(frozen=True)
class LogNote:
    """A message that was logged while a worker ran a unit: level (``WARNING``), logger, message."""

    level: str
    source: str
    message: str


@dataclass(frozen=True)
class WorkerReport:
    """Time that a worker spent on a unit, and the messages logged meanwhile.

    Attributes:
        run_s: seconds spent on the unit.
        build_s: seconds spent on loading the worker before this unit; 0 for all units but its first.
        process: process id and machine of the worker, for people.
        notes: the first warnings and errors, at most :data:`MAX_NOTES_PER_UNIT`.
    """

    run_s: float = 0.0
    build_s: float = 0.0
    process: str = ""
    notes: tuple[LogNote, ...] = ()

    @property
    def busy_s(self) -> float:
        """Seconds in which the worker was busy."""
        return self.run_s + self.build_s


@dataclass(frozen=True)
class UnitOutcome:
    """A unit with its receipt or its failure. Neither is set if another unit killed the actor: this one must be run again."""

    unit: Unit[Item]
    receipt: Receipt | None = None
    failure: Failure | None = None
    report: WorkerReport = WorkerReport()

    def with_build_time(self, build_s: float) -> UnitOutcome:
        """The same outcome; its report says that the worker was loaded for ``build_s`` seconds before the unit."""
        return replace(self, report=replace(self.report, build_s=build_s)) if build_s else self


class Worker(Protocol[ItemT_contra]):
    """Runs units of one stage. It is built once per actor, so that weights are loaded once; see :class:`WorkerSpec`."""

    def run(self, unit: Unit[ItemT_contra]) -> Receipt:
        """Compute and commit one unit. What it raises becomes the unit's failure."""
        ...


class WorkerSpec(Protocol[ItemT_contra]):
    """A picklable description of a worker: a pool sends it to every actor, and the actor builds its worker from it.

    A spec for a table of texts, its worker, and a pool in this process that runs two units:

    >>> from dataclasses import dataclass
    >>> from avpref.config.executor_settings import InProcessExecutor
    >>> from avpref.datasets import tables
    >>> from avpref.execution.contract import Receipt
    >>> from avpref.execution.fakes import FakeItem, FakeRow, fake_units
    >>> from avpref.execution.pool import open_pool
    >>> from avpref.storage.local_files import LocalFiles
    >>> from avpref.storage.unit import Unit
    >>> from avpref.storage.unit_files import UnitFiles

    >>> @dataclass(frozen=True)
    ... class MyWorker:
    ...     files: UnitFiles
    ...
    ...     def run(self, unit: Unit[FakeItem]) -> Receipt:
    ...         rows = [FakeRow(item.item_id) for item in unit.items]
    ...         self.files.commit(unit, rows)
    ...         return Receipt(rows=len(rows), quarantined=0, elapsed_s=0.0)

    >>> @dataclass(frozen=True)
    ... class MySpec:
    ...     files: UnitFiles
    ...
    ...     def build(self) -> MyWorker:
    ...         return MyWorker(self.files)  # a worker with a network loads its weights here

    >>> files = UnitFiles(LocalFiles(folder), tables.SKIPPED)
    >>> first, second = fake_units(num_units=2, size=3)
    >>> with open_pool(InProcessExecutor(), MySpec(files), files) as pool:
    ...     pool.submit(first)
    ...     outcome = pool.next_done()
    >>> outcome.receipt
    Receipt(rows=3, quarantined=0, elapsed_s=0.0)
    >>> files.exists(first), files.exists(second)
    (True, False)
    """

    def build(self) -> Worker[ItemT_contra]:
        """Load what the worker needs, for instance weights."""
        ...


class UnitStore(Protocol):
    """Where workers commit units. Pools use it to check that all machines see one folder, and which units are finished."""

    @property
    def store(self) -> Files:
        """The files of all units."""
        ...

    def exists(self, unit: Unit[Item]) -> bool:
        """Whether the unit is committed."""
        ...


class Pool(Protocol[ItemT_contra]):
    """Workers of one kind. At most ``capacity`` units may be in flight."""

    capacity: int

    def submit(self, unit: Unit[ItemT_contra]) -> None:
        """Hand over a unit; only while fewer than ``capacity`` units are in flight."""
        ...

    def next_done(self) -> UnitOutcome:
        """Wait until any unit in flight has ended."""
        ...


def run_and_catch(worker: Worker[ItemT], unit: Unit[ItemT]) -> UnitOutcome:
    """Run a unit and turn what it raises into a failure, so that an exception is never mistaken for a dead process."""
    started = time.perf_counter()
    with captured_warnings() as notes:
        try:
            outcome = UnitOutcome(unit, receipt=worker.run(unit))
            hit(FailPoint.UNIT_COMMITTED)
        except Exception as raised:
            error = _as_storage_error(raised)
            is_fatal = isinstance(error, FATAL_ERRORS) and not isinstance(error, MediaError)
            outcome = UnitOutcome(unit, failure=failure_of(error, is_fatal))
    process = _PROCESS.format(os.getpid())
    report = WorkerReport(time.perf_counter() - started, process=process, notes=tuple(notes))
    return replace(outcome, report=report)


class _WarningHandler(logging.Handler):
    """Keeps the first warnings and errors of the thread that it was made in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.notes: list[LogNote] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        if record.thread == self._thread and len(self.notes) < MAX_NOTES_PER_UNIT:
            self.notes.append(LogNote(record.levelname, record.name, record.getMessage()))


@contextlib.contextmanager
def captured_warnings() -> Iterator[list[LogNote]]:
    """The list of warnings and errors that any library logs in this thread during the block."""
    handler = _WarningHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.notes
    finally:
        logging.getLogger().removeHandler(handler)


def _as_storage_error(error: Exception) -> Exception:
    """StorageError for a full or read-only disk, whichever library raised it; other errors unchanged."""
    if isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EROFS):
        return storage_error(Path(str(error.filename or tempfile.gettempdir())), error)
    return error


def failure_of(error: Exception, is_fatal: bool) -> Failure:
    """The failure that describes ``error``. Only this product's errors are kept as ``cause``: others may not be picklable."""
    message = str(error) or "".join(traceback.format_exception(error, limit=-3))
    cause = error if is_fatal and isinstance(error, AvprefError) else None
    return Failure(type(error).__name__, message, is_fatal, cause=cause)
