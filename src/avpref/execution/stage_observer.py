"""Interface between the execution of a stage and code that reports it, for instance to a Prefect server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from avpref.observability.progress import Listener


@dataclass(frozen=True)
class ShardDone:
    """Result of finishing one shard in this execution; a row of the stage's table artifact.

    ``seconds`` is wall-clock time; ``busy_actor_s`` and ``gpu_s`` are seconds of work of the workers and of their GPUs.
    ``p50_ms`` and ``p95_ms`` are per item, None where no item was missing.
    """

    shard: int
    rows: int
    items: int
    units: int
    made_now: int
    quarantined: int
    seconds: float
    busy_actor_s: float
    gpu_s: float
    p50_ms: float | None
    p95_ms: float | None


class StageObserver(Protocol):
    """Follows one pass of a worker pool over the shards of a stage. Its methods return at once and raise nothing."""

    @property
    def listener(self) -> Listener | None:
        """Receives the stage's measure after every finished unit; None for no listener."""
        ...

    def shards_running(self, stage: str, first: int, last: int) -> AbstractContextManager[None]:
        """The block runs the shards ``first`` to ``last`` (inclusive) of ``stage``; an exception means that they failed."""
        ...

    def stage_finished(self, stage: str, shards: Sequence[ShardDone]) -> None:
        """All shards of ``stage`` are finished."""
        ...


class NoObserver:
    """A :class:`StageObserver` that reports nothing."""

    listener: Listener | None = None

    def shards_running(self, stage: str, first: int, last: int) -> AbstractContextManager[None]:
        """Do nothing around the block."""
        return nullcontext()

    def stage_finished(self, stage: str, shards: Sequence[ShardDone]) -> None:
        """Do nothing."""
