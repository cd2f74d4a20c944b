"""Messages to a Prefect server about an execution: one frozen dataclass per kind.

Flow runs and task runs are identified by keys of our own, because the server's ids are not known while it is away.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prefect.client.schemas.objects import StateType


@dataclass(frozen=True)
class FlowStarted:
    """A run of the flow ``name`` started; a subflow run of ``parent`` unless that is empty."""

    run: str
    name: str
    parent: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlowEnded:
    """A flow run reached the final state ``state``."""

    run: str
    state: StateType
    message: str = ""


@dataclass(frozen=True)
class TaskStarted:
    """A run of the task ``task_name``, shown as ``name``, started in the flow run ``run``."""

    task: str
    run: str
    task_name: str
    name: str


@dataclass(frozen=True)
class TaskEnded:
    """A task run reached the final state ``state``."""

    task: str
    state: StateType
    message: str = ""


@dataclass(frozen=True)
class Progressed:
    """New value of a progress artifact, in percent. A newer message replaces one that waits."""

    run: str
    key: str
    percent: float
    description: str


@dataclass(frozen=True)
class TableMade:
    """A table artifact."""

    run: str
    key: str
    rows: Sequence[Mapping[str, Any]]
    description: str


@dataclass(frozen=True)
class Logged:
    """A line of a flow run's log."""

    run: str
    text: str
    when: datetime


@dataclass(frozen=True)
class RunEvent:
    """An event that automations can act on. The server stores an ``event_id`` once, however often it is sent."""

    event_id: str
    name: str
    run: str
    resource: Mapping[str, str]
    payload: Mapping[str, Any]
    when: datetime


Message = FlowStarted | FlowEnded | TaskStarted | TaskEnded | Progressed | TableMade | Logged | RunEvent


def replacement_key(message: Message) -> Hashable:
    """Key under which a newer message replaces one that waits; None for messages that are all delivered."""
    return (message.run, message.key) if isinstance(message, Progressed) else None


def is_droppable(message: Message) -> bool:
    """Whether a full queue may drop the message. Starts and ends of flow runs are few and always kept."""
    return not isinstance(message, FlowStarted | FlowEnded)
