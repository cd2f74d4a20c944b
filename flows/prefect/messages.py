"""What a Prefect server can be told about a run: one frozen dataclass per message.

A flow run and a task run are named by keys of ours until the server has given them ids.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class End(StrEnum):
    """How a flow run or task run ended; the values are Prefect's state types."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class FlowStarted:
    """A flow run began: of flow ``name``, as a subflow of ``parent`` or by itself where that is empty."""

    run: str
    name: str
    parent: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlowEnded:
    """A flow run ended."""

    run: str
    end: End
    message: str = ""


@dataclass(frozen=True)
class TaskStarted:
    """A task run of ``run`` began; ``kind`` is the task, ``name`` this run of it."""

    task: str
    run: str
    kind: str
    name: str


@dataclass(frozen=True)
class TaskEnded:
    """A task run ended."""

    task: str
    end: End
    message: str = ""


@dataclass(frozen=True)
class Progressed:
    """A progress artifact: how much of a stage is done, in percent. Only the newest one matters."""

    run: str
    key: str
    percent: float
    description: str


@dataclass(frozen=True)
class Tabled:
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
class Happened:
    """An event that automations can act on. ``event_id`` makes a second delivery harmless."""

    event_id: str
    name: str
    run: str
    resource: Mapping[str, str]
    payload: Mapping[str, Any]
    when: datetime


Message = FlowStarted | FlowEnded | TaskStarted | TaskEnded | Progressed | Tabled | Logged | Happened


def replaces(message: Message) -> Hashable:
    """What an undelivered message is replaced by: an equal answer. None: every message of the kind is delivered."""
    return (message.run, message.key) if isinstance(message, Progressed) else None


def is_droppable(message: Message) -> bool:
    """Whether the message may be given up where too many wait; a flow run's beginning and end are few and stay."""
    return not isinstance(message, FlowStarted | FlowEnded)
