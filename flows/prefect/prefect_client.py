"""Sends messages to a Prefect server, with Prefect's own client.

Task runs and events carry ids of ours and flow runs an idempotency key, so a message may be sent again after its answer
was lost; only an artifact may then exist twice. A stage is a subflow as Prefect's engine makes it: a flow run that belongs
to a task run of the parent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.context import SettingsContext, get_settings_context
from prefect.events import Event
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from avpref.flows.prefect.delivery_queue import Refused, Unreachable
from avpref.flows.prefect.messages import (
    FlowEnded,
    FlowStarted,
    Logged,
    Message,
    Progressed,
    RunEvent,
    TableMade,
    TaskEnded,
    TaskStarted,
)

TIMEOUT_S = 15.0
BUSY = {408, 425, 429}
"""HTTP codes after which the same message is sent again, as after every code from 500 on."""
HEARTBEAT = "prefect.flow-run.heartbeat"
RUNNING = {"type": "RUNNING", "name": "Running"}


@dataclass(frozen=True)
class OpenRun:
    """A flow run in progress, with the server's ids."""

    run_id: UUID
    flow_id: UUID
    flow_name: str
    name: str
    tags: tuple[str, ...]

    @property
    def resource(self) -> dict[str, str]:
        """The run as the resource of an event."""
        return {"prefect.resource.id": f"prefect.flow-run.{self.run_id}", "prefect.resource.name": self.name}

    @property
    def related(self) -> list[dict[str, str]]:
        """The run's flow and tags as related resources of an event."""
        flow = {
            "prefect.resource.id": f"prefect.flow.{self.flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": self.flow_name,
        }
        tags = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in self.tags]
        return [flow, *tags]


class PrefectReporter:
    """The :class:`~avpref.flows.prefect.delivery_queue.Transport` to the server of the current Prefect settings.

    ``adopted`` maps keys of messages to flow runs that Prefect's engine created.
    """

    def __init__(self, adopted: Mapping[str, OpenRun] | None = None) -> None:
        self._runs: dict[str, OpenRun] = dict(adopted or {})
        self._open = set(self._runs)
        self._flows: dict[str, UUID] = {}
        self._tasks: dict[str, UUID] = {}
        self._artifacts: dict[tuple[str, str], str] = {}
        self._settings = _without_retries()
        with self._settings:  # other settings than those of Prefect's engine give a client of its own
            self._client: SyncPrefectClient = get_client(sync_client=True, httpx_settings={"timeout": TIMEOUT_S})
        self._client.__enter__()

    def deliver(self, message: Message) -> None:
        """See :class:`avpref.flows.prefect.delivery_queue.Transport`."""
        self._send(lambda: self._deliver(message))

    def heartbeat(self) -> None:
        """See :class:`avpref.flows.prefect.delivery_queue.Transport`; the event is that of Prefect's engine."""
        runs = [self._runs[key] for key in sorted(self._open)]
        if runs:
            self._send(lambda: self._emit(*map(_heartbeat, runs)))

    def close(self) -> None:
        """See :class:`avpref.flows.prefect.delivery_queue.Transport`."""
        self._client.__exit__(None, None, None)

    def _deliver(self, message: Message) -> None:
        match message:
            case FlowStarted():
                self._start_flow(message)
            case FlowEnded(run, state, text):
                self._open.discard(run)
                end: State[Any] = State(type=state, message=text)
                self._client.set_flow_run_state(self._run(run).run_id, end, force=True)
            case TaskStarted(task, run, task_name, name):
                self._tasks[task] = self._start_task(run, task_name, name, task)
            case TaskEnded(task, state, text):
                if task not in self._tasks:
                    raise Refused("the start of the task run was not delivered")
                self._client.set_task_run_state(self._tasks[task], State(type=state, message=text), force=True)
            case Progressed():
                self._progress(message)
            case TableMade(run, key, rows, text):
                self._artifact(run, key, "table", json.dumps(list(rows), default=str), text)
            case Logged():
                self._log(message)
            case RunEvent():
                self._emit(self._event(message))

    def _start_flow(self, message: FlowStarted) -> None:
        if message.name not in self._flows:
            self._flows[message.name] = self._client.create_flow_from_name(message.name)
        flow_id = self._flows[message.name]
        body: dict[str, Any] = {
            "flow_id": str(flow_id),
            "parameters": dict(message.parameters),
            "tags": list(message.tags),
            "idempotency_key": message.run,  # Prefect's create_flow_run has no such parameter
            "state": RUNNING,
        }
        if message.parent:
            task_run_id = uuid5(UUID(message.run), "parent task run")
            task_run = self._start_task(message.parent, message.name, message.name, message.run, task_run_id)
            body["parent_task_run_id"] = str(task_run)
        run = self._client.request("POST", "/flow_runs/", json=body).json()
        self._runs[message.run] = OpenRun(UUID(run["id"]), flow_id, message.name, run["name"], message.tags)
        self._open.add(message.run)
        self._emit(
            _heartbeat(self._runs[message.run])
        )  # or a run killed before its first one would never become Crashed

    def _start_task(self, run: str, task_name: str, name: str, key: str, task_run_id: UUID | None = None) -> UUID:
        task_run_id = task_run_id or UUID(key)
        body = {
            "id": str(task_run_id),
            "flow_run_id": str(self._run(run).run_id),
            "task_key": task_name,
            "dynamic_key": key,
            "name": name,
            "state": RUNNING,
        }
        return UUID(self._client.request("POST", "/task_runs/", json=body).json()["id"])

    def _progress(self, message: Progressed) -> None:
        artifact = self._artifacts.get((message.run, message.key))
        if artifact is None:
            artifact = self._artifact(message.run, message.key, "progress", message.percent, message.description)
            self._artifacts[message.run, message.key] = artifact
        else:
            body = {"data": message.percent, "description": message.description}
            self._client.request("PATCH", "/artifacts/{id}", path_params={"id": artifact}, json=body)

    def _artifact(self, run: str, key: str, kind: str, data: object, description: str) -> str:
        """Create an artifact; returns its id. Prefect's ``create_artifact`` also emits an event, whose thread at the end of the
        process waits without limit for a server that is away."""
        body = {"key": key, "type": kind, "data": data, "description": description}
        body["flow_run_id"] = str(self._run(run).run_id)
        return str(self._client.request("POST", "/artifacts/", json=body).json()["id"])

    def _log(self, message: Logged) -> None:
        line = {"name": "avpref", "level": logging.INFO, "message": message.text}
        run = {"timestamp": message.when.isoformat(), "flow_run_id": str(self._run(message.run).run_id)}
        self._client.create_logs([line | run])

    def _event(self, message: RunEvent) -> Event:
        run = self._run(message.run)
        return Event(
            id=UUID(message.event_id),
            event=message.name,
            resource=dict(message.resource),  # type: ignore[arg-type]
            related=[{**run.resource, "prefect.resource.role": "flow-run"}, *run.related],  # type: ignore[list-item]
            payload=dict(message.payload),
            occurred=message.when,  # type: ignore[arg-type]
        )

    def _emit(self, *events: Event) -> None:
        self._client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])

    def _run(self, key: str) -> OpenRun:
        if key not in self._runs:
            raise Refused("the start of the flow run was not delivered")
        return self._runs[key]

    def _send(self, call: Callable[[], None]) -> None:
        try:
            with self._settings:
                call()
        except ObjectNotFound as error:
            raise Refused(f"the server does not know the run: {error}") from error
        except PrefectHTTPStatusError as error:
            path, code = error.request.url.path, error.response.status_code
            if code in BUSY or code >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise Unreachable(f"{path}: HTTP {code}") from error
            raise Refused(f"{path}: HTTP {code}: {error.response.text[:200]}") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error


def _heartbeat(run: OpenRun) -> Event:
    return Event(
        id=uuid4(),
        event=HEARTBEAT,
        resource=run.resource,  # type: ignore[arg-type]
        related=run.related,  # type: ignore[arg-type]
        occurred=datetime.now(UTC),  # type: ignore[arg-type]
    )


def _without_retries() -> SettingsContext:
    """The caller's Prefect settings without retries of failed requests, because the queue sends them again."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}) as settings:
        return SettingsContext(profile=get_settings_context().profile, settings=settings)
