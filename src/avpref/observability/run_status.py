"""Watching a run: what a stage says of itself goes to documents in the run's folder and to the endpoint.

progress/<stage>.stage.json     when a stage of the loop began and ended, or how it failed
progress/<name>.units.json      how far a pool's pass over its units is, and what it has cost so far, all executions together

Both are telemetry: whoever looks at a run reads them, no stage does. Whether a stage is done is asked of its results.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from avpref.config.observe_settings import ObserveSettings
from avpref.domain import SCHEMA_VERSION
from avpref.errors import AvprefError, CircuitOpen, StorageError
from avpref.observability.meters import StageMeasure, StageMeter
from avpref.observability.progress import Listener
from avpref.observability.prometheus import Collector, endpoint
from avpref.storage.event_log import EventLog, Level
from avpref.storage.local_files import replace

PROGRESS = "progress"
STAGE_SUFFIX, UNITS_SUFFIX = ".stage.json", ".units.json"
WRITE_EVERY_S = 1.0
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
Document = dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """What a pass over units has taken in all executions: seconds, workers' seconds, GPU-seconds, items made."""

    seconds: float = 0.0
    busy_s: float = 0.0
    gpu_s: float = 0.0
    made: int = 0

    def plus(self, measure: StageMeasure) -> Spent:
        """With an execution that did something; one that found everything there costs nothing."""
        if not measure.busy_s and not measure.made:
            return self
        return Spent(
            round(self.seconds + measure.elapsed_s, 3),
            round(self.busy_s + measure.busy_s, 3),
            round(self.gpu_s + measure.gpu_s, 3),
            self.made + measure.made,
        )


class Watched(Protocol):
    """A folder that is watched."""

    @property
    def root(self) -> Path:
        """The folder; its name names the run."""
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
class Watch:
    """Who is told of the stages of one run in this process."""

    root: Path
    collector: Collector
    stage: str = ""

    @property
    def run(self) -> str:
        """The run's id."""
        return self.root.name


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def publishing(folder: Watched) -> Iterator[None]:
    """Watch the run in ``folder`` for the length of the block: documents, and the endpoint where one is configured."""
    with endpoint(folder.observe) as collector:
        token = _watch.set(Watch(folder.root, collector))
        try:
            yield
        finally:
            _watch.reset(token)


@contextmanager
def publishing_stage(folder: Watched, name: str) -> Iterator[None]:
    """Say when the stage ``name`` begins and ends, and how it failed; what it raises is raised."""
    document = StageDocument(folder.root / PROGRESS / f"{name}{STAGE_SUFFIX}", name)
    document.write(RUNNING)
    folder.events.write("stage_started", stage=name)
    watch = _watch.get()
    token = _watch.set(Watch(watch.root, watch.collector, name) if watch else None)
    try:
        yield
    except Exception as error:
        with suppress(StorageError):  # a full disk must not hide what went wrong
            document.write(FAILED, error)
            folder.events.write("stage_failed", Level.ERROR, stage=name, error=type(error).__name__, message=str(error))
        raise
    except BaseException:
        with suppress(StorageError):
            document.write(INTERRUPTED)
            folder.events.write("stage_interrupted", Level.WARNING, stage=name)
        raise
    finally:
        _watch.reset(token)
    document.write(DONE)


class StageDocument:
    """``progress/<stage>.stage.json``."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.since_s = time.time()

    def write(self, state: str, error: Exception | None = None) -> None:
        """Replace the document."""
        about = {"stage": self.name, "state": state, "since_s": self.since_s, "updated_s": time.time(), "by": _self()}
        if error is not None:
            known = {name: getattr(error, name) for name in ("found", "fix")} if isinstance(error, AvprefError) else {}
            about["error"] = {
                "error": type(error).__name__,
                "message": str(error),
                "is_circuit_open": isinstance(error, CircuitOpen),
                **known,
            }
        _write(self.path, about)


class UnitsDocument:
    """``progress/<name>.units.json``, replaced at most every second, and when the pass ends. A listener."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage
        self.since_s, self._written = time.time(), -WRITE_EVERY_S
        self._before = spent_in(path)

    def __call__(self, measure: StageMeasure) -> None:
        """Take in a measure of a pass that goes on."""
        if time.monotonic() - self._written >= WRITE_EVERY_S:
            self.write(RUNNING, measure)

    def write(self, state: str, measure: StageMeasure) -> None:
        """Replace the document."""
        self._written = time.monotonic()
        about = {"name": measure.stage, "stage": self.stage, "state": state, "since_s": self.since_s, "by": _self()}
        spent = asdict(self._before.plus(measure))
        _write(self.path, about | {"updated_s": time.time(), "measure": measure.document(), "spent": spent})


class Subscribers:
    """Everyone that one pass over units (or one training) tells how far it is. A listener."""

    def __init__(self, watch: Watch | None, name: str, others: Sequence[Listener | None] = ()) -> None:
        self._watch = watch
        self._others = [other for other in others if other]
        stage = watch.stage if watch else ""
        self._document = UnitsDocument(watch.root / PROGRESS / f"{name}{UNITS_SUFFIX}", stage) if watch else None

    def __call__(self, measure: StageMeasure) -> None:
        """Tell everyone, each as often as it likes."""
        if self._watch:
            self._watch.collector.publish(self._watch.run, measure)
        if self._document:
            self._document(measure)
        for other in self._others:
            other(measure)

    def say(self, state: str, measure: StageMeasure) -> None:
        """Say that it begins, or how it ended."""
        if self._watch and self._document:
            self._watch.collector.publish(self._watch.run, measure)
            self._document.write(state, measure)


def subscribers(name: str, *others: Listener | None) -> Subscribers:
    """Who is to be told of the pass ``name``: the watch of this context, if there is one, and ``others``."""
    return Subscribers(_watch.get(), name, others)


@contextmanager
def told(watchers: Subscribers, meter: StageMeter) -> Iterator[None]:
    """Tell the watchers that a pass begins, and how it ends."""
    watchers.say(RUNNING, meter.measure())
    try:
        yield
    except BaseException:
        with suppress(StorageError):
            watchers.say(FAILED, meter.measure())
        raise
    watchers.say(DONE, meter.measure())


def publish_pairs(kept: int, currency: str, cost_per_pair: float | None) -> None:
    """Tell the endpoint of this context how many pairs there are, and what each cost."""
    watch = _watch.get()
    if watch:
        watch.collector.publish_pairs(watch.run, currency, kept, cost_per_pair)


def documents(root: Path, suffix: str) -> list[Document]:
    """The documents of a run with that suffix, oldest beginning first."""
    found = [read_document(path) for path in (root / PROGRESS).glob(f"*{suffix}")]
    return sorted((each for each in found if each), key=lambda each: each["since_s"])


def read_document(path: Path) -> Document | None:
    """A document; None where there is none, or it is not one of this schema."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema_version") == SCHEMA_VERSION else None


def spent_in(path: Path) -> Spent:
    """What earlier executions have spent on the pass whose document is at ``path``."""
    found = (read_document(path) or {}).get("spent", {})
    return Spent(**{field.name: found[field.name] for field in fields(Spent) if field.name in found})


def _write(path: Path, document: Document) -> None:
    whole = {"schema_version": SCHEMA_VERSION, **document}
    replace(path, json.dumps(whole, indent=1, ensure_ascii=False).encode())


def _self() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
