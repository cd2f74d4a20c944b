"""Publishes the status of a run: to documents in the run's folder, and to the Prometheus endpoint.

progress/<stage>.stage.json     one per stage of the loop: when it began and ended, or how it failed
progress/<name>.units.json      one per pass of a pool over its units: counts, times, and the cost over all executions

Both are telemetry. The views of the command line read them; no stage does. Whether a stage is done follows from its results.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avpref.config.observe_settings import ObserveSettings
from avpref.errors import AvprefError, CircuitOpen, StorageError
from avpref.observability.meters import StageMeasure, StageMeter
from avpref.observability.progress import Listener
from avpref.observability.prometheus import Collector, endpoint
from avpref.observability.status_documents import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    PassStatus,
    StageError,
    StageStatus,
    pass_file,
    spent_in,
    stage_file,
)
from avpref.storage.event_log import EventLog, Level

WRITE_EVERY_S = 1.0


class ObservedFolder(Protocol):
    """A run folder whose status is published."""

    @property
    def root(self) -> Path:
        """The folder; its name is the run's id."""
        ...

    @property
    def events(self) -> EventLog:
        """The structured log."""
        ...

    @property
    def observe(self) -> ObserveSettings:
        """Prices and endpoint."""
        ...


@dataclass(frozen=True)
class RunStatus:
    """Where this process publishes the status of one run: the run's folder and the endpoint's collector.

    ``stage`` is the stage of the loop that is running, empty outside of one.
    """

    root: Path
    collector: Collector
    stage: str = ""

    @property
    def run(self) -> str:
        """The run's id."""
        return self.root.name


_status: ContextVar[RunStatus | None] = ContextVar("run_status", default=None)


@contextmanager
def publishing(folder: ObservedFolder) -> Iterator[None]:
    """Publish the status of the run in ``folder`` for the length of the block: documents, and the endpoint if one is configured."""
    with endpoint(folder.observe) as collector:
        token = _status.set(RunStatus(folder.root, collector))
        try:
            yield
        finally:
            _status.reset(token)


@contextmanager
def publishing_stage(folder: ObservedFolder, name: str) -> Iterator[None]:
    """Publish when the stage ``name`` begins and ends, or how it failed. An exception of the block is raised again."""
    document = StageDocument(stage_file(folder.root, name), name)
    document.write(RUNNING)
    folder.events.write("stage_started", stage=name)
    status = _status.get()
    token = _status.set(RunStatus(status.root, status.collector, name) if status else None)
    try:
        yield
    except Exception as error:
        with suppress(StorageError):  # a full disk must not hide the stage's own error
            document.write(FAILED, error)
            folder.events.write("stage_failed", Level.ERROR, stage=name, error=type(error).__name__, message=str(error))
        raise
    except BaseException:
        with suppress(StorageError):
            document.write(INTERRUPTED)
            folder.events.write("stage_interrupted", Level.WARNING, stage=name)
        raise
    finally:
        _status.reset(token)
    document.write(DONE)


class StageDocument:
    """Writes ``progress/<stage>.stage.json``."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.since_s = time.time()

    def write(self, state: str, error: Exception | None = None) -> None:
        """Replace the document. Raises StorageError."""
        failure = None if error is None else _stage_error(error)
        StageStatus(self.name, state, self.since_s, time.time(), _this_process(), failure).write(self.path)


class UnitsDocument:
    """Writes ``progress/<name>.units.json``: at most once a second, and when the pass ends. A listener."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage
        self.since_s, self._written_s = time.time(), -WRITE_EVERY_S
        self._spent_before = spent_in(path)

    def __call__(self, measure: StageMeasure) -> None:
        """Write the measure of a running pass, unless the last one is younger than a second."""
        if time.monotonic() - self._written_s >= WRITE_EVERY_S:
            self.write(RUNNING, measure)

    def write(self, state: str, measure: StageMeasure) -> None:
        """Replace the document. Raises StorageError."""
        self._written_s = time.monotonic()
        spent = self._spent_before.plus(measure)
        status = PassStatus(
            measure.stage, self.stage, state, self.since_s, _this_process(), time.time(), measure, spent
        )
        status.write(self.path)


class Subscribers:
    """Everyone who receives the measures of one pass over units (or of one training). A listener."""

    def __init__(self, status: RunStatus | None, name: str, others: Sequence[Listener | None] = ()) -> None:
        self._status = status
        self._others = [other for other in others if other]
        self._document = UnitsDocument(pass_file(status.root, name), status.stage) if status else None

    def __call__(self, measure: StageMeasure) -> None:
        """Hand the measure of a running pass to everyone; each decides how often to use one."""
        if self._status:
            self._status.collector.publish(self._status.run, measure)
        if self._document:
            self._document(measure)
        for other in self._others:
            other(measure)

    def publish(self, state: str, measure: StageMeasure) -> None:
        """Publish that the pass begins, or how it ended."""
        if self._status and self._document:
            self._status.collector.publish(self._status.run, measure)
            self._document.write(state, measure)


def subscribers(name: str, *others: Listener | None) -> Subscribers:
    """The subscribers of the pass ``name``: the run status of this context, if there is one, and ``others``."""
    return Subscribers(_status.get(), name, others)


@contextmanager
def publishing_pass(receivers: Subscribers, meter: StageMeter) -> Iterator[None]:
    """Publish that a pass begins, and how it ends. An exception of the block is raised again."""
    receivers.publish(RUNNING, meter.measure())
    try:
        yield
    except BaseException:
        with suppress(StorageError):
            receivers.publish(FAILED, meter.measure())
        raise
    receivers.publish(DONE, meter.measure())


def publish_pairs(kept: int, currency: str, cost_per_pair: float | None) -> None:
    """Show at the endpoint of this context how many pairs the run kept, and the cost of each."""
    status = _status.get()
    if status:
        status.collector.publish_pairs(status.run, currency, kept, cost_per_pair)


def _stage_error(error: Exception) -> StageError:
    found, fix = (error.found, error.fix) if isinstance(error, AvprefError) else (None, None)
    return StageError(type(error).__name__, str(error), isinstance(error, CircuitOpen), found, fix)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
