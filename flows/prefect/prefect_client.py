"""Sends messages about an execution to a Prefect server, with Prefect's own client.

Flow runs and task runs are named by keys of ours, because the server's ids of flow runs are not known while it is away. Task
runs and events carry ids of ours and flow runs an idempotency key, so a message may be sent again after its answer was lost;
only an artifact may then exist twice. A stage is a subflow as Prefect's engine makes it: a flow run that belongs to a task
run of the parent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import SettingsContext, get_settings_context
from prefect.events import Event, RelatedResource, Resource
from prefect.events.related import object_as_related_resource, tags_as_related_resources
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

TIMEOUT_S = 15.0
BUSY = {408, 425, 429}
"""HTTP codes after which the same message is sent again, as after every code from 500 on."""
HEARTBEAT = "prefect.flow-run.heartbeat"
"""Name of the event that Prefect's engine emits for its own flow runs."""
RUNNING = {"type": "RUNNING", "name": "Running"}


class Unreachable(Exception):
    """The server does not answer, or cannot now; the message is sent again."""


class Refused(Exception):
    """The server rejected the message; it is counted and not sent again."""


class PrefectReporter:
    """A connection to the server of the current Prefect settings. One thread at a time may use it.

    ``adopted`` maps keys to flow runs that Prefect's engine created. All other methods are called by a message within
    :meth:`deliver`; they raise Refused for the key of a flow run whose start was not delivered.
    """

    def __init__(self, adopted: Mapping[UUID, FlowRun] | None = None) -> None:
        self._runs: dict[UUID, FlowRun] = dict(adopted or {})
        self._unfinished = set(self._runs)
        self._flows: dict[str, UUID] = {}
        self._artifacts: dict[tuple[UUID, str], str] = {}
        self._settings = _without_retries()
        with self._settings:  # other settings than those of Prefect's engine give a client of its own
            self._client: SyncPrefectClient = get_client(sync_client=True, httpx_settings={"timeout": TIMEOUT_S})
        self._client.__enter__()

    def deliver(self, message: Message) -> None:
        """Send one message. Raises Unreachable or Refused."""
        try:
            with self._settings:
                message(self)
        except ObjectNotFound as error:
            raise Refused(f"the server does not know the run: {error}") from error
        except PrefectHTTPStatusError as error:
            path, code = error.request.url.path, error.response.status_code
            if code in BUSY or code >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise Unreachable(f"{path}: HTTP {code}") from error
            raise Refused(f"{path}: HTTP {code}: {error.response.text[:200]}") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Close the connection; the last call."""
        self._client.__exit__(None, None, None)

    def heartbeat(self) -> None:
        """Send a heartbeat of every flow run in progress."""
        self._emit(*(_heartbeat(self._runs[key]) for key in sorted(self._unfinished)))

    def start_flow(
        self, key: UUID, name: str, parent: UUID | None, parameters: Mapping[str, Any], tags: tuple[str, ...]
    ) -> None:
        """Create a run of the flow ``name``, which becomes a subflow run of ``parent`` unless that is None."""
        if name not in self._flows:
            self._flows[name] = self._client.create_flow_from_name(name)
        body = {
            "flow_id": str(self._flows[name]),
            "parameters": dict(parameters),
            "tags": list(tags),
            "state": RUNNING,
            "idempotency_key": str(key),  # Prefect's create_flow_run has no such parameter
        }
        if parent is not None:
            self.start_task(key, parent, name, name)
            body["parent_task_run_id"] = str(key)
        self._runs[key] = FlowRun.model_validate(self._client.request("POST", "/flow_runs/", json=body).json())
        self._unfinished.add(key)
        self._emit(_heartbeat(self._runs[key]))  # or a run killed before its first one would never become Crashed

    def rename_flow(self, key: UUID, name: str) -> None:
        """Give a flow run another name than the one that the server made up."""
        run = self._run(key)
        self._client.request("PATCH", "/flow_runs/{id}", path_params={"id": str(run.id)}, json={"name": name})
        self._runs[key] = run.model_copy(update={"name": name})

    def end_flow(self, key: UUID, state: State[Any]) -> None:
        """Set the final state of a flow run."""
        self._unfinished.discard(key)
        self._client.set_flow_run_state(self._run(key).id, state, force=True)

    def start_task(self, key: UUID, run: UUID, task: str, name: str) -> None:
        """Create a run of ``task`` in the flow run ``run``, shown as ``name``; its id is ``key``."""
        body = {"id": str(key), "flow_run_id": str(self._run(run).id), "task_key": task, "dynamic_key": str(key)}
        self._client.request("POST", "/task_runs/", json=body | {"name": name, "state": RUNNING})

    def end_task(self, key: UUID, state: State[Any]) -> None:
        """Set the final state of a task run."""
        self._client.set_task_run_state(key, state, force=True)

    def show_progress(self, run: UUID, name: str, percent: float, description: str) -> None:
        """Create the progress artifact ``name`` of a flow run, or change its value."""
        artifact, body = self._artifacts.get((run, name)), {"data": percent, "description": description}
        if artifact is None:
            self._artifacts[run, name] = self.add_artifact(run, name, "progress", percent, description)
        else:
            self._client.request("PATCH", "/artifacts/{id}", path_params={"id": artifact}, json=body)

    def add_artifact(self, run: UUID, name: str, kind: str, data: object, description: str) -> str:
        """Create an artifact of a flow run; returns its id. Prefect's ``create_artifact`` also emits an event, whose thread at
        the end of the process waits without limit for a server that is away."""
        body = {"key": name, "type": kind, "data": data, "description": description}
        body["flow_run_id"] = str(self._run(run).id)
        return str(self._client.request("POST", "/artifacts/", json=body).json()["id"])

    def log(self, run: UUID, text: str, when: datetime) -> None:
        """Add a line to the log of a flow run."""
        line = {"name": "avpref", "level": logging.INFO, "message": text, "timestamp": when.isoformat()}
        self._client.create_logs([line | {"flow_run_id": str(self._run(run).id)}])

    def emit(self, run: UUID, event: Event) -> None:
        """Emit an event, with a flow run, its flow and its tags as related resources."""
        flow_run = self._run(run)
        related = [object_as_related_resource("flow-run", "flow-run", flow_run), *_related(flow_run)]
        self._emit(event.model_copy(update={"related": related}))

    def _emit(self, *events: Event) -> None:
        if events:
            self._client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])

    def _run(self, key: UUID) -> FlowRun:
        if key not in self._runs:
            raise Refused("the start of the flow run was not delivered")
        return self._runs[key]


Message: TypeAlias = Callable[[PrefectReporter], object]
"""A call of one method of the reporter; its result is ignored."""


def _heartbeat(run: FlowRun) -> Event:
    labels = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
    return Event(event=HEARTBEAT, resource=Resource(labels), related=_related(run))


def _related(run: FlowRun) -> list[RelatedResource]:
    """The run's flow and tags as related resources of an event."""
    flow = {"prefect.resource.id": f"prefect.flow.{run.flow_id}", "prefect.resource.role": "flow"}
    return [RelatedResource(flow), *tags_as_related_resources(run.tags)]


def _without_retries() -> SettingsContext:
    """The caller's Prefect settings without retries of failed requests, because the queue sends them again."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}) as settings:
        return SettingsContext(profile=get_settings_context().profile, settings=settings)
