"""Reports executions, stages and shards to a Prefect server; without a configured server it does nothing.

A server shows an execution as a flow run, each stage as a subflow and each group of shards as a task run. The code of a
stage runs as a plain function, not in Prefect's engine, so it never waits for the server (docs/decisions/0016): messages go
through :mod:`avpref.flows.prefect.delivery_queue`. No state is read back; the run folder alone says what is done. Only at
the start of a command a server that does not answer is an error. Prefect is imported only where a server may be configured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID, uuid4

from avpref.config.observe_settings import ReportingSettings
from avpref.console import say
from avpref.execution.item_counts import StageCounts
from avpref.execution.stage_observer import NoObserver, ShardDone, StageObserver
from avpref.flows.prefect.server_traces import may_have_server
from avpref.observability.meters import StageMeasure
from avpref.observability.progress import Listener
from avpref.storage.work_folder import WorkFolder

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import State

    from avpref.flows.prefect.delivery_queue import DeliveryQueue
    from avpref.flows.prefect.prefect_client import PrefectReporter

RunT = TypeVar("RunT", bound=WorkFolder)

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
    key: UUID


_CURRENT: ContextVar[_FlowRun | None] = ContextVar("avpref_flow_run", default=None)


@dataclass(frozen=True)
class Stage(Generic[RunT]):
    """A stage: a plain function of the run, which a server shows as a subflow."""

    name: str
    fn: Callable[[RunT], StageCounts]

    def __call__(self, run: RunT) -> StageCounts:
        """Run the stage on ``run``; returns its counts. Raises AvprefError where the server does not answer."""
        current, parameters = _CURRENT.get(), {"run_dir": str(run.root)}
        if current is None:
            with execution(self.name, parameters):
                return self.fn(run)
        with _flow_run(current.queue, self.name, parameters, current.key):
            return self.fn(run)


def stage(name: str) -> Callable[[Callable[[RunT], StageCounts]], Stage[RunT]]:
    """Decorator that makes a :class:`Stage` of a function; the counterpart of Prefect's ``@flow`` for a subflow."""
    return lambda function: Stage(name, function)


def has_server() -> bool:
    """Whether a Prefect API is configured, in the environment or the active profile."""
    if not may_have_server():
        return False
    from avpref.flows.prefect.prefect_server import server_url

    return bool(server_url())


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
    from avpref.flows.prefect import prefect_server

    key, adopted = uuid4(), prefect_server.engine_run()
    if adopted is None:
        prefect_server.require_server()
    queue = prefect_server.open_queue({key: adopted} if adopted else None)
    flush_s = (settings or ReportingSettings()).flush_s
    try:
        with _current(queue, key) if adopted else _flow_run(queue, name, parameters):
            yield
    except Exception:
        raise
    except BaseException:  # interrupted by the user, or stopped by the worker, which waits only seconds
        flush_s = min(flush_s, INTERRUPTED_FLUSH_S)
        raise
    finally:
        prefect_server.say_undelivered(queue.close(flush_s))


class PrefectObserver:
    """A :class:`~avpref.execution.stage_observer.StageObserver` that reports to the current flow run.

    Shows a progress artifact per stage, updated at most every 10 s, a task run per group of shards, and a table artifact of
    the shards.
    """

    def __init__(self, run: _FlowRun) -> None:
        self._run = run
        self._shown_at: dict[str, float] = {}
        self.listener: Listener | None = self._progress

    @contextmanager
    def shards_running(self, stage: str, first: int, last: int) -> Iterator[None]:
        """See the protocol."""
        key, run, queue = uuid4(), self._run.key, self._run.queue
        name = "-".join([stage, *map(str, dict.fromkeys((first, last)))])
        queue.put(lambda reporter: reporter.start_task(key, run, SHARD_TASK, name))
        with _ending(lambda state: queue.put(lambda reporter: reporter.end_task(key, state))):
            yield

    def stage_finished(self, stage: str, shards: Sequence[ShardDone]) -> None:
        """See the protocol."""
        num_units = sum(shard.units for shard in shards)
        table(f"{stage}-shards", [asdict(shard) for shard in shards], f"{num_units} units of stage {stage}, by shard")

    def _progress(self, measure: StageMeasure) -> None:
        now, stage, done, total = time.monotonic(), measure.stage, measure.done, measure.total
        is_due = now - self._shown_at.get(stage, -ARTIFACT_EVERY_S) >= ARTIFACT_EVERY_S or done >= total
        if total and is_due:
            self._shown_at[stage] = now
            run, name, text = self._run.key, _artifact_name(stage), measure.text
            self._run.queue.put(
                lambda reporter: reporter.show_progress(run, name, 100.0 * done / total, text), replaces=(run, name)
            )


def observer() -> StageObserver:
    """Observer of a stage that runs now; it reports nothing outside an execution or without a server."""
    current = _CURRENT.get()
    return NoObserver() if current is None else PrefectObserver(current)


def table(name: str, rows: list[dict[str, Any]], description: str) -> None:
    """Report a table artifact of the first :data:`TABLE_ROWS` rows."""
    data = json.dumps(rows[:TABLE_ROWS], default=str)
    _report(lambda reporter, run: reporter.add_artifact(run, _artifact_name(name), "table", data, description))


def rename(name: str) -> None:
    """Name the current flow run."""
    _report(lambda reporter, run: reporter.rename_flow(run, name))


def markdown(name: str, text: str, description: str) -> None:
    """Report a Markdown artifact."""
    _report(lambda reporter, run: reporter.add_artifact(run, _artifact_name(name), "markdown", text, description))


def note(text: str) -> None:
    """Print a line to stderr and add it to the flow run's log."""
    say(text)
    when = datetime.now(UTC)
    _report(lambda reporter, run: reporter.log(run, text, when))


def emit_event(name: str, run_id: str, run_dir: str, payload: Mapping[str, Any]) -> None:
    """Emit an event about a run, for automations.

    Its resource is ``avpref.run.<run id>`` with labels avpref.run-id, avpref.run-dir and avpref.runs-dir; the flow run is a
    related resource.
    """
    if _CURRENT.get() is None:
        return
    from prefect.events import Event, Resource

    labels = {"prefect.resource.id": f"avpref.run.{run_id}", "prefect.resource.name": run_id}
    labels |= {"avpref.run-id": run_id, "avpref.run-dir": run_dir, "avpref.runs-dir": str(Path(run_dir).parent)}
    event = Event(event=name, resource=Resource(labels), payload=dict(payload))
    _report(lambda reporter, run: reporter.emit(run, event))


def _report(message: Callable[[PrefectReporter, UUID], object]) -> None:
    """Queue a message about the current flow run, whose key it gets; outside an execution do nothing."""
    current = _CURRENT.get()
    if current is not None:
        current.queue.put(lambda reporter: message(reporter, current.key))


@contextmanager
def _flow_run(
    queue: DeliveryQueue, name: str, parameters: Mapping[str, Any], parent: UUID | None = None
) -> Iterator[None]:
    """Report the block as a run of flow ``name``, a subflow run of ``parent`` if there is one. Start and end are never dropped."""
    key, tags = uuid4(), (TAG if parent is None else STAGE_TAG,)
    queue.put(lambda reporter: reporter.start_flow(key, name, parent, parameters, tags), is_droppable=False)
    with (
        _ending(lambda state: queue.put(lambda reporter: reporter.end_flow(key, state), is_droppable=False)),
        _current(queue, key),
    ):
        yield


@contextmanager
def _current(queue: DeliveryQueue, key: UUID) -> Iterator[None]:
    token = _CURRENT.set(_FlowRun(queue, key))
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def _ending(report: Callable[[State[Any]], None]) -> Iterator[None]:
    """Report the final state of the block, with its duration: a server that was away dates states by its own clock."""
    from avpref.flows.prefect import prefect_server

    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        report(prefect_server.failed(error))
        raise
    report(prefect_server.completed(time.monotonic() - began))


def _artifact_name(name: str) -> str:
    """An artifact's key, for which Prefect allows lower-case letters, digits and dashes."""
    return f"avpref-{name.replace('_', '-')}"
