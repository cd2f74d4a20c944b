"""Reports executions, stages and shards to a Prefect server; without a configured server it does nothing.

A server shows an execution as a flow run, each stage as a subflow and each group of shards as a task run. The code of a
stage runs as a plain function, not in Prefect's engine, so it never waits for the server (docs/decisions/0016): messages go
through :mod:`avpref.flows.prefect.delivery_queue`. No state is read back; the run folder alone says what is done. Only at
the start of a command a server that does not answer is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from avpref.config.observe_settings import ReportingSettings
from avpref.console import say
from avpref.errors import AvprefError
from avpref.execution.stage_observer import NoObserver, ShardDone, StageObserver
from avpref.flows.prefect.delivery_queue import DeliveryQueue, Undelivered
from avpref.flows.prefect.messages import (
    FlowEnded,
    FlowStarted,
    Logged,
    Progressed,
    RunEvent,
    TableMade,
    TaskEnded,
    TaskStarted,
)
from avpref.flows.prefect.prefect_client import OpenRun, PrefectReporter
from avpref.observability.meters import StageMeasure, duration
from avpref.observability.progress import Listener

ARTIFACT_EVERY_S = 10.0
TABLE_ROWS = 100
"""Largest number of rows of a table artifact; the run folder has all of them."""
TAG, STAGE_TAG = "avpref", "avpref-stage"
"""Tags of the flow runs of executions and of stages; automations select runs by them."""
SHARD_TASK = "run_shard"
INTERRUPTED_FLUSH_S = 5.0


@dataclass(frozen=True)
class _FlowRun:
    """The flow run that the current code belongs to: its key in messages, and the queue that reports it."""

    queue: DeliveryQueue
    key: str


_CURRENT: ContextVar[_FlowRun | None] = ContextVar("avpref_flow_run", default=None)


class HasRoot(Protocol):
    """A run, of which a server is told the folder."""

    @property
    def root(self) -> Path:
        """The run's folder."""
        ...


@dataclass(frozen=True)
class Stage:
    """A stage: a plain function of the run, which a server shows as a subflow."""

    name: str
    fn: Callable[[Any], Any]

    def __call__(self, run: HasRoot) -> Any:
        """Run the stage on ``run``; returns its counts. Raises AvprefError where the server does not answer."""
        current, parameters = _CURRENT.get(), {"run_dir": str(run.root)}
        if current is None:
            with execution(self.name, parameters):
                return self.fn(run)
        with _flow_run(current.queue, FlowStarted(_new_key(), self.name, current.key, parameters, (STAGE_TAG,))):
            return self.fn(run)


def stage(name: str) -> Callable[[Callable[[Any], Any]], Stage]:
    """Decorator that makes a :class:`Stage` of a function; the counterpart of Prefect's ``@flow`` for a subflow."""
    return lambda function: Stage(name, function)


def has_server() -> bool:
    """Whether a Prefect API is configured, in the environment or the active profile."""
    return bool(PREFECT_API_URL.value())


def call(flow: Flow[..., Any], *arguments: Any) -> Any:
    """Call the function of a deployable flow; neither Prefect's engine nor a server is started."""
    return flow.fn(*arguments)


@contextmanager
def execution(name: str, parameters: Mapping[str, Any], settings: ReportingSettings | None = None) -> Iterator[None]:
    """Report the block as a flow run: the run of Prefect's engine if it called this code, else a new run of flow ``name``.

    Does nothing without a server or inside another such block. Raises AvprefError where the server does not answer.
    """
    if _CURRENT.get() is not None or not has_server():
        yield
        return
    adopted = _engine_run()
    if adopted is None:
        _require_answer()
    key = _new_key()
    reporter = PrefectReporter({key: adopted} if adopted else None)
    queue = DeliveryQueue(reporter, heartbeat_s=PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value())
    flush_s = (settings or ReportingSettings()).flush_s
    try:
        with _current(queue, key) if adopted else _flow_run(queue, FlowStarted(key, name, "", parameters, (TAG,))):
            yield
    except Exception:
        raise
    except BaseException:  # interrupted by the user, or stopped by the worker, which waits only seconds
        flush_s = min(flush_s, INTERRUPTED_FLUSH_S)
        raise
    finally:
        _say_undelivered(queue.close(flush_s))


class PrefectObserver:
    """A :class:`~avpref.execution.stage_observer.StageObserver` that reports to the current flow run.

    Shows a progress artifact per stage, updated at most every 10 s, a task run per group of shards, and a table artifact of
    the shards.
    """

    def __init__(self, queue: DeliveryQueue, run: str) -> None:
        self._queue, self._run = queue, run
        self._last: dict[str, float] = {}

    @property
    def listener(self) -> Listener | None:
        """See the protocol."""
        return self._progress

    def shards_running(self, stage: str, first: int, last: int) -> AbstractContextManager[None]:
        """See the protocol."""
        return self._task("-".join([stage, *map(str, dict.fromkeys((first, last)))]))

    def stage_finished(self, stage: str, shards: Sequence[ShardDone]) -> None:
        """See the protocol."""
        num_units = sum(shard.units for shard in shards)
        table(f"{stage}-shards", [asdict(shard) for shard in shards], f"{num_units} units of stage {stage}, by shard")

    @contextmanager
    def _task(self, name: str) -> Iterator[None]:
        key, began = _new_key(), time.monotonic()
        self._queue.put(TaskStarted(key, self._run, SHARD_TASK, name))
        with _ending(lambda state, message: self._queue.put(TaskEnded(key, state, message)), began):
            yield

    def _progress(self, measure: StageMeasure) -> None:
        now, stage, done, total = time.monotonic(), measure.stage, measure.done, measure.total
        is_due = now - self._last.get(stage, -ARTIFACT_EVERY_S) >= ARTIFACT_EVERY_S or done >= total
        if total and is_due:
            self._last[stage] = now
            self._queue.put(Progressed(self._run, _artifact_key(stage), 100.0 * done / total, measure.text))


def observer() -> StageObserver:
    """Observer of a stage that runs now; it reports nothing outside an execution or without a server."""
    current = _CURRENT.get()
    return NoObserver() if current is None else PrefectObserver(current.queue, current.key)


def table(name: str, rows: list[dict[str, Any]], description: str) -> None:
    """Report a table artifact of the first :data:`TABLE_ROWS` rows."""
    current = _CURRENT.get()
    if current is not None:
        current.queue.put(TableMade(current.key, _artifact_key(name), rows[:TABLE_ROWS], description))


def note(text: str) -> None:
    """Print a line to stderr and add it to the flow run's log."""
    say(text)
    current = _CURRENT.get()
    if current is not None:
        current.queue.put(Logged(current.key, text, datetime.now(UTC)))


def emit_event(name: str, run_id: str, run_dir: str, payload: Mapping[str, Any]) -> None:
    """Emit an event about a run, for automations.

    Its resource is ``avpref.run.<run id>`` with labels avpref.run-id, avpref.run-dir and avpref.runs-dir; the flow run is a
    related resource.
    """
    current = _CURRENT.get()
    if current is None:
        return
    resource = {
        "prefect.resource.id": f"avpref.run.{run_id}",
        "prefect.resource.name": run_id,
        "avpref.run-id": run_id,
        "avpref.run-dir": run_dir,
        "avpref.runs-dir": str(Path(run_dir).parent),
    }
    current.queue.put(RunEvent(_new_key(), name, current.key, resource, payload, datetime.now(UTC)))


@contextmanager
def _flow_run(queue: DeliveryQueue, started: FlowStarted) -> Iterator[None]:
    began = time.monotonic()
    queue.put(started)
    with (
        _ending(lambda state, message: queue.put(FlowEnded(started.run, state, message)), began),
        _current(queue, started.run),
    ):
        yield


@contextmanager
def _current(queue: DeliveryQueue, run: str) -> Iterator[None]:
    token = _CURRENT.set(_FlowRun(queue, run))
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def _ending(report: Callable[[StateType, str], None], began: float) -> Iterator[None]:
    """Report the final state of the block, with its duration: a server that was away dates states by its own clock."""
    try:
        yield
    except Exception as error:
        report(StateType.FAILED, f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt:
        report(StateType.CANCELLED, "interrupted")
        raise
    except BaseException as error:
        report(StateType.CRASHED, type(error).__name__)
        raise
    report(StateType.COMPLETED, f"took {duration(time.monotonic() - began)}")


def _engine_run() -> OpenRun | None:
    """The flow run in which Prefect's engine called this code."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    run = context.flow_run
    name = context.flow.name if context.flow is not None else ""
    return OpenRun(run.id, run.flow_id, name, run.name, tuple(run.tags))


def _new_key() -> str:
    return str(uuid4())


def _artifact_key(name: str) -> str:
    """An artifact's key, for which Prefect allows lower-case letters, digits and dashes."""
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


def _say_undelivered(undelivered: Undelivered) -> None:
    if not undelivered:
        return
    counts = f"{undelivered.waiting} not delivered, {undelivered.dropped} dropped, {undelivered.refused} refused"
    url, error = PREFECT_API_URL.value(), undelivered.last_error
    say(f"reports to {url}: {counts} ({error}); the run folder is complete all the same")
