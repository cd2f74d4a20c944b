"""Messages to a Prefect server, over its REST API.

Every call names what it creates (ids of task runs and events, idempotency keys of flow runs), so a message that is sent
twice because an answer was lost changes nothing; an artifact alone may then exist twice.
Subflows are what Prefect makes of them: a task run of the parent, and a flow run that belongs to it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import SettingsContext, get_settings_context
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from avpref.flows.prefect.delivery_queue import Refused, Unreachable
from avpref.flows.prefect.messages import (
    FlowEnded,
    FlowStarted,
    Happened,
    Logged,
    Message,
    Progressed,
    Tabled,
    TaskEnded,
    TaskStarted,
)

TIMEOUT_S = 15.0
BUSY = {408, 425, 429}
"""Answers of a server that cannot now, beside every answer from 500 on."""
INFO = 20
"""The level of a log line, as Python's logging counts them."""
HEARTBEAT = "prefect.flow-run.heartbeat"


@dataclass(frozen=True)
class OpenRun:
    """A flow run in progress as the server knows it."""

    run_id: str
    flow_id: str
    flow_name: str
    name: str
    tags: tuple[str, ...]

    @property
    def resource(self) -> dict[str, str]:
        """The run as an event's resource."""
        return {"prefect.resource.id": f"prefect.flow-run.{self.run_id}", "prefect.resource.name": self.name}

    @property
    def related(self) -> list[dict[str, str]]:
        """Its flow and tags as an event's related resources."""
        flow = {
            "prefect.resource.id": f"prefect.flow.{self.flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": self.flow_name,
        }
        tags = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in self.tags]
        return [flow, *tags]


class PrefectDesk:
    """Hands messages to the server that the current Prefect settings name. ``adopted`` are flow runs made by others."""

    def __init__(self, adopted: Mapping[str, OpenRun] | None = None) -> None:
        self._runs: dict[str, OpenRun] = dict(adopted or {})
        self._open = set(self._runs)
        self._flows: dict[str, str] = {}
        self._tasks: dict[str, str] = {}
        self._artifacts: dict[tuple[str, str], str] = {}
        self._settings = _without_retries()
        with self._settings:  # settings of its own make it a client of its own, beside one that Prefect's engine holds
            self._client: SyncPrefectClient = get_client(sync_client=True, httpx_settings={"timeout": TIMEOUT_S})
        self._client.__enter__()

    def deliver(self, message: Message) -> None:
        """See :class:`avpref.flows.prefect.delivery_queue.Desk`."""
        with self._settings:
            self._deliver(message)

    def beat(self) -> None:
        """See :class:`avpref.flows.prefect.delivery_queue.Desk`; the event is the one that Prefect's own engine sends."""
        events = [
            _event(str(uuid.uuid4()), HEARTBEAT, run.resource, run.related, {}, datetime.now(UTC))
            for run in (self._runs[key] for key in sorted(self._open))
        ]
        if events:
            with self._settings:
                self._ask("POST", "/events", events)

    def close(self) -> None:
        """See :class:`avpref.flows.prefect.delivery_queue.Desk`."""
        self._client.__exit__(None, None, None)

    def _deliver(self, message: Message) -> None:
        match message:
            case FlowStarted():
                self._start_flow(message)
            case FlowEnded():
                self._open.discard(message.run)
                self._set_state("flow_runs", self._run(message.run).run_id, message.end, message.message)
            case TaskStarted():
                self._tasks[message.task] = self._start_task(message, message.kind, message.task)
            case TaskEnded():
                if message.task not in self._tasks:
                    raise Refused("a task run ended whose beginning was not delivered")
                self._set_state("task_runs", self._tasks[message.task], message.end, message.message)
            case Progressed():
                self._progress(message)
            case Tabled():
                data = json.dumps(list(message.rows), default=str)
                self._artifact(message.run, message.key, "table", data, message.description)
            case Logged():
                self._log(message)
            case Happened():
                run = self._run(message.run)
                related = [{**run.resource, "prefect.resource.role": "flow-run"}, *run.related]
                self._ask(
                    "POST",
                    "/events",
                    [_event(message.event_id, message.name, message.resource, related, message.payload, message.when)],
                )

    def _start_flow(self, message: FlowStarted) -> None:
        if message.name not in self._flows:
            self._flows[message.name] = self._ask("POST", "/flows/", {"name": message.name})["id"]
        body: dict[str, Any] = {
            "flow_id": self._flows[message.name],
            "parameters": dict(message.parameters),
            "tags": list(message.tags),
            "idempotency_key": message.run,
            "state": {"type": "RUNNING", "name": "Running"},
        }
        if message.parent:
            task = TaskStarted(message.run, message.parent, message.name, message.name)
            body["parent_task_run_id"] = self._start_task(task, message.name, str(uuid.uuid4()))
        found = self._ask("POST", "/flow_runs/", body)
        flow_id = self._flows[message.name]
        self._runs[message.run] = OpenRun(found["id"], flow_id, message.name, found["name"], message.tags)
        self._open.add(message.run)

    def _start_task(self, message: TaskStarted, kind: str, task_id: str) -> str:
        body = {
            "id": task_id,
            "flow_run_id": self._run(message.run).run_id,
            "task_key": kind,
            "dynamic_key": message.task,
            "name": message.name,
            "state": {"type": "RUNNING", "name": "Running"},
        }
        return self._ask("POST", "/task_runs/", body)["id"]

    def _set_state(self, what: str, its_id: str, state: str, message: str) -> None:
        found = {"type": state, "name": state.capitalize(), "message": message}
        self._ask("POST", f"/{what}/{its_id}/set_state", {"state": found, "force": True})

    def _progress(self, message: Progressed) -> None:
        known = self._artifacts.get((message.run, message.key))
        if known is None:
            made = self._artifact(message.run, message.key, "progress", message.percent, message.description)
            self._artifacts[message.run, message.key] = made
        else:
            body = {"data": message.percent, "description": message.description}
            self._ask("PATCH", f"/artifacts/{known}", body)

    def _artifact(self, run: str, key: str, kind: str, data: object, description: str) -> str:
        body = {"key": key, "type": kind, "data": data, "description": description}
        return self._ask("POST", "/artifacts/", body | {"flow_run_id": self._run(run).run_id})["id"]

    def _log(self, message: Logged) -> None:
        line = {"name": "avpref", "level": INFO, "message": message.text, "timestamp": message.when.isoformat()}
        self._ask("POST", "/logs/", [line | {"flow_run_id": self._run(message.run).run_id}])

    def _run(self, key: str) -> OpenRun:
        if key not in self._runs:
            raise Refused("the flow run that it belongs to was not delivered")
        return self._runs[key]

    def _ask(self, method: Any, path: Any, body: object) -> Any:
        try:
            answer = self._client.request(method, path, json=body)
        except PrefectHTTPStatusError as error:
            code = error.response.status_code
            if code in BUSY or code >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise Unreachable(f"{path}: HTTP {code}") from error
            raise Refused(f"{path}: HTTP {code}: {error.response.text[:200]}") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        return answer.json() if answer.content else None


def _without_retries() -> SettingsContext:
    """The caller's Prefect settings, but a request that fails is not repeated: the outbox does that."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}) as settings:
        return SettingsContext(profile=get_settings_context().profile, settings=settings)


def _event(
    event_id: str,
    name: str,
    resource: Mapping[str, str],
    related: list[dict[str, str]],
    payload: Mapping[str, Any],
    when: datetime,
) -> dict[str, Any]:
    return {
        "id": event_id,
        "event": name,
        "resource": dict(resource),
        "related": related,
        "payload": dict(payload),
        "occurred": when.isoformat(),
    }
