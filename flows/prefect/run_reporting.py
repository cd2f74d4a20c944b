"""The seam to Prefect: with a server, runs, stages and shards are told to it; without one nothing is.

Correctness never depends on Prefect: a task's state is telemetry, the run folder is the ledger. So work never waits for
the server either: what it is told goes through an outbox (flows/prefect/delivery_queue.py), and a server that goes away in the middle of
a run is told the rest when it is back. Only at the start of a command a server that does not answer is an error.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from avpref.config.observe_settings import ReportingSettings
from avpref.errors import AvprefError
from avpref.flows.prefect.delivery_queue import Outbox, Undelivered
from avpref.flows.prefect.messages import (
    End,
    FlowEnded,
    FlowStarted,
    Happened,
    Logged,
    Progressed,
    Tabled,
    TaskEnded,
    TaskStarted,
)
from avpref.flows.prefect.prefect_client import OpenRun, PrefectDesk
from avpref.observability.meters import StageMeasure, duration
from avpref.observability.progress import Listener, say

ARTIFACT_EVERY_S = 10.0
TABLE_ROWS = 100
"""Rows of a table artifact; the run folder has the others."""
TAG, STAGE_TAG = "avpref", "avpref-stage"
"""Tags of the flow runs of whole executions and of their stages; automations choose by them."""
INTERRUPTED_FLUSH_S = 5.0


@dataclass(frozen=True)
class _Place:
    """Where in the tree of flow runs the code at hand is."""

    outbox: Outbox
    run: str


_PLACE: ContextVar[_Place | None] = ContextVar("avpref_reporting_place", default=None)


@dataclass(frozen=True)
class Stage:
    """A stage of a run: a plain function of the run's folder, reported as a flow run of its own where there is a server."""

    name: str
    fn: Callable[[str], int]

    def __call__(self, run_dir: str) -> int:
        """Run the stage on the folder ``run_dir``; returns its rows. Raises AvprefError for a server that is not there."""
        place, parameters = _PLACE.get(), {"run_dir": run_dir}
        if place is None:
            with execution(self.name, parameters):
                return self.fn(run_dir)
        with _flow_run(place.outbox, FlowStarted(_new_key(), self.name, place.run, parameters, (STAGE_TAG,))):
            return self.fn(run_dir)


def stage(name: str) -> Callable[[Callable[[str], int]], Stage]:
    """Decorator that makes a :class:`Stage` of a function."""
    return lambda function: Stage(name, function)


def has_server() -> bool:
    """Whether a Prefect API is configured (environment or profile)."""
    return bool(PREFECT_API_URL.value())


def call(work: Stage | Flow[..., Any], *arguments: Any) -> Any:
    """Run a stage, or a deployable flow as the function that it is: what it does reports itself."""
    return work.fn(*arguments) if isinstance(work, Flow) else work(*arguments)


@contextmanager
def execution(name: str, parameters: Mapping[str, Any], settings: ReportingSettings | None = None) -> Iterator[None]:
    """Report the block as a flow run: the one that Prefect's engine runs this code for, or else a new one of flow ``name``.

    Nothing happens without a server, or inside another such block. Raises AvprefError where the server does not answer.
    """
    if _PLACE.get() is not None or not has_server():
        yield
        return
    adopted = _engines_run()
    if adopted is None:
        _require_answer()
    key = _new_key()
    outbox = Outbox(PrefectDesk({key: adopted} if adopted else None), beat_s=PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value())
    flush_s = (settings or ReportingSettings()).flush_s
    try:
        with _adopted(outbox, key) if adopted else _flow_run(outbox, FlowStarted(key, name, "", parameters, (TAG,))):
            yield
    except Exception:
        raise
    except BaseException:  # the user interrupts, or the worker stops this process: there is no time
        flush_s = min(flush_s, INTERRUPTED_FLUSH_S)
        raise
    finally:
        _say_undelivered(outbox.close(flush_s))


@contextmanager
def task(kind: str, name: str) -> Iterator[None]:
    """Report the block as a task run of the flow run around it."""
    place = _PLACE.get()
    if place is None:
        yield
        return
    key, started = str(uuid.uuid4()), time.monotonic()
    place.outbox.put(TaskStarted(key, place.run, kind, name))
    with _ending(lambda end, message: place.outbox.put(TaskEnded(key, end, message)), started):
        yield


class StageArtifact:
    """One progress artifact per stage of a flow run, updated at most every 10 s."""

    def __init__(self, outbox: Outbox, run: str) -> None:
        self._outbox, self._run = outbox, run
        self._last: dict[str, float] = {}

    def __call__(self, measure: StageMeasure) -> None:
        """Listener of :class:`avpref.observability.progress.Progress`."""
        now, stage, done, total = time.monotonic(), measure.stage, measure.done, measure.total
        is_due = now - self._last.get(stage, -ARTIFACT_EVERY_S) >= ARTIFACT_EVERY_S or done >= total
        if not total or not is_due:
            return
        self._last[stage] = now
        self._outbox.put(Progressed(self._run, _artifact_key(stage), 100.0 * done / total, measure.text))


def listener() -> Listener | None:
    """What a stage reports its progress to; None where nothing is reported."""
    place = _PLACE.get()
    return None if place is None else StageArtifact(place.outbox, place.run)


def table(name: str, rows: list[dict[str, Any]], description: str) -> None:
    """A table artifact of the first rows; nothing where nothing is reported."""
    place = _PLACE.get()
    if place is not None:
        place.outbox.put(Tabled(place.run, _artifact_key(name), rows[:TABLE_ROWS], description))


def note(text: str) -> None:
    """A line for the person at the terminal, which the flow run's log has too."""
    say(text)
    place = _PLACE.get()
    if place is not None:
        place.outbox.put(Logged(place.run, text, datetime.now(UTC)))


def event(name: str, run_id: str, run_dir: str, payload: Mapping[str, Any]) -> None:
    """An event about a run that automations can act on; nothing where nothing is reported.

    Its resource is ``avpref.run.<run id>``; labels avpref.run-id, avpref.run-dir, avpref.runs-dir. The flow run is related.
    """
    place = _PLACE.get()
    if place is None:
        return
    resource = {
        "prefect.resource.id": f"avpref.run.{run_id}",
        "prefect.resource.name": run_id,
        "avpref.run-id": run_id,
        "avpref.run-dir": run_dir,
        "avpref.runs-dir": str(Path(run_dir).parent),
    }
    place.outbox.put(Happened(_new_key(), name, place.run, resource, payload, datetime.now(UTC)))


@contextmanager
def _flow_run(outbox: Outbox, started: FlowStarted) -> Iterator[None]:
    began = time.monotonic()
    outbox.put(started)
    with (
        _ending(lambda end, message: outbox.put(FlowEnded(started.run, end, message)), began),
        _adopted(outbox, started.run),
    ):
        yield


@contextmanager
def _adopted(outbox: Outbox, run: str) -> Iterator[None]:
    token = _PLACE.set(_Place(outbox, run))
    try:
        yield
    finally:
        _PLACE.reset(token)


@contextmanager
def _ending(tell: Callable[[End, str], None], began: float) -> Iterator[None]:
    """Tell how the block ended. Messages carry the duration: a server that was away stamps states with its own time."""
    try:
        yield
    except Exception as error:
        tell(End.FAILED, f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt:
        tell(End.CANCELLED, "interrupted")
        raise
    except BaseException as error:
        tell(End.CRASHED, type(error).__name__)
        raise
    tell(End.COMPLETED, f"took {duration(time.monotonic() - began)}")


def _engines_run() -> OpenRun | None:
    """The flow run that Prefect's engine runs this code for."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    run = context.flow_run
    name = context.flow.name if context.flow is not None else ""
    return OpenRun(str(run.id), str(run.flow_id), name, run.name, tuple(run.tags))


def _new_key() -> str:
    return str(uuid.uuid4())


def _artifact_key(name: str) -> str:
    """An artifact's key: Prefect takes lower-case letters, digits and dashes."""
    return f"avpref-{name.replace('_', '-')}"


def require_server() -> None:
    """Raises AvprefError where no server is configured, or it does not answer."""
    if not has_server():
        fix = "export PREFECT_API_URL=http://127.0.0.1:4200/api, or: prefect config set PREFECT_API_URL=…"
        raise AvprefError("no Prefect server is configured", "the address of one", fix)
    _require_answer()


def _require_answer() -> None:
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    if failure is not None:
        raise _no_answer(failure) from failure


def _no_answer(error: Exception) -> AvprefError:
    found = f"the Prefect server at {PREFECT_API_URL.value()} does not answer ({error})"
    expected = "the server that PREFECT_API_URL or the Prefect profile names, or none"
    fix = "start it (prefect server start), or run without one: unset PREFECT_API_URL; prefect config unset PREFECT_API_URL"
    return AvprefError(found, expected, fix)


def _say_undelivered(left: Undelivered) -> None:
    if not left:
        return
    counts = f"{left.waiting} not delivered, {left.dropped} dropped, {left.refused} refused"
    say(f"reports to {PREFECT_API_URL.value()}: {counts} ({left.last_error}); the run folder is complete all the same")
