"""Test doubles for stages: items, rows, a worker that fails on request, and a pool whose actors die on request.

They test stages in milliseconds, without a model and without Ray:

>>> from avpref.datasets import tables
>>> from avpref.execution.fakes import FakeActorPool, FakeWorker, fake_units, item_ids
>>> from avpref.execution.retry import UnitRunner
>>> from avpref.storage.event_log import EventLog
>>> from avpref.storage.local_files import LocalFiles
>>> from avpref.storage.unit_files import UnitFiles

>>> units = fake_units(num_units=3, size=4)
>>> files = UnitFiles(LocalFiles(folder), tables.SKIPPED)
>>> worker = FakeWorker(files, failing=frozenset({"i0005"}))
>>> pool = FakeActorPool(worker, seed=0)  # or InProcessPool(worker), or a pool of Ray actors
>>> UnitRunner(pool, files, EventLog(folder / "events.jsonl"), print, max_quarantined=1).run(units)
4
4
4
>>> rows, quarantined = files.read(units)
>>> len(item_ids(units)), rows.num_rows, [row.candidate_id for row in quarantined]
(12, 11, ['i0005'])
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

from avpref.datasets.rows import QuarantineRow
from avpref.execution.contract import Failure, Receipt, UnitOutcome
from avpref.execution.pool import InProcessPool
from avpref.storage.local_files import commit_once
from avpref.storage.score_files import ScoreFiles
from avpref.storage.unit import Item, Unit
from avpref.storage.unit_files import UnitFiles

HANG_S = 3600.0
"""Seconds for which a worker hangs on an item with :attr:`Harm.HANG`: longer than any test."""


class Harm(StrEnum):
    """The effect that an item has on the process that works on it."""

    NONE = ""
    RAISE = "raise"
    KILL = "kill"
    HANG = "hang"


@dataclass(frozen=True)
class FakeItem:
    """An item of a unit: an id, and the effect that it has on its worker."""

    item_id: str
    harm: Harm = Harm.NONE


@dataclass(frozen=True)
class FakeRow:
    """The row that :class:`FakeWorker` commits for an item, with the columns of :data:`avpref.datasets.tables.SKIPPED`."""

    prompt_id: str
    reason: str = "made"
    detail: str = ""


def fake_units(num_units: int, size: int, stage: str = "stage", shard: int = 0) -> list[Unit[FakeItem]]:
    """``num_units`` units of ``size`` items each; the items are named ``i0000``, ``i0001``, … across all units."""
    items = [FakeItem(f"i{ordinal:04d}") for ordinal in range(num_units * size)]
    return [Unit(stage, shard, "f", tuple(items[start : start + size])) for start in range(0, len(items), size)]


def do_nothing() -> None:
    """The default of :attr:`FakeWorker.on_unit`."""


@dataclass
class FakeWorker:
    """Commits one row per item, and one per item and scorer where ``files`` are a scorer's; it is its own specification.

    Attributes:
        files: the files into which units are committed.
        failing: ids of the items that raise ValueError; an item's own :class:`Harm` acts as well.
        flaky: id of an item → number of times that it raises TimeoutError before it succeeds.
        quarantined: ids of the items that the worker gives up on itself, with a quarantine row.
        fatal: the error that every unit raises, if any.
        on_unit: called at the beginning of every unit.
        starts: folder in which every process that builds the worker leaves a file ``actor-PID``; None: no files.
        num_runs: id of an item → number of times that it was worked on. Only the process that did the work counts.
        units: names of the units that were begun, in that order.
    """

    files: UnitFiles | ScoreFiles
    failing: frozenset[str] = frozenset()
    flaky: Counter[str] = field(default_factory=Counter)
    quarantined: frozenset[str] = frozenset()
    fatal: Exception | None = None
    on_unit: Callable[[], object] = do_nothing
    starts: Path | None = None
    num_runs: Counter[str] = field(default_factory=Counter)
    units: list[str] = field(default_factory=list)

    def build(self) -> FakeWorker:
        """The worker itself; writes its file into ``starts``."""
        if self.starts is not None:
            commit_once(self.starts / f"actor-{os.getpid()}", b"")
        return self

    def run(self, unit: Unit[FakeItem]) -> Receipt:
        """Fail as requested, or commit the unit.

        Raises ``fatal``, ValueError for a failing item, and TimeoutError for a flaky one.
        """
        self.units.append(unit.name)
        self.on_unit()
        for item in unit.items:
            self._work_on(item)
        kept = [item for item in unit.items if item.item_id not in self.quarantined]
        dropped = [
            QuarantineRow(item.item_id, unit.stage, "MediaError", "no sound", 1)
            for item in unit.items
            if item.item_id in self.quarantined
        ]
        if isinstance(self.files, ScoreFiles):
            for part in self.files.parts(unit):
                rows = [FakeRow(item.item_id, part.fingerprint) for item in kept]
                self.files.files.commit(part, rows, dropped)
        else:
            self.files.commit(unit, [FakeRow(item.item_id) for item in kept], dropped)
        return Receipt(len(kept), len(dropped), 0.0)

    def _work_on(self, item: FakeItem) -> None:
        self.num_runs[item.item_id] += 1
        if self.fatal is not None:
            raise self.fatal
        if item.harm is Harm.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if item.harm is Harm.HANG:
            time.sleep(HANG_S)
        if item.harm is Harm.RAISE or item.item_id in self.failing:
            raise ValueError(f"cannot make {item.item_id}")
        if self.flaky[item.item_id] > 0:
            self.flaky[item.item_id] -= 1
            raise TimeoutError("try again")


class FakeActorPool:
    """A pool of actors in this process: two units in flight on each, ended in an order that is drawn from ``seed``.

    An actor that begins a unit with an item of ``deadly`` dies: that unit fails with ``ActorDied``, and the actor's other
    unit comes back with neither receipt nor failure, to be run again.
    """

    def __init__(
        self, worker: FakeWorker, seed: int, num_actors: int = 2, deadly: frozenset[str] = frozenset()
    ) -> None:
        self.worker, self.deadly, self.capacity = worker, deadly, 2 * num_actors
        self.num_deaths = 0
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._queues: list[deque[Unit[FakeItem]]] = [deque() for _ in range(num_actors)]
        self._ended: deque[UnitOutcome] = deque()

    def submit(self, unit: Unit[FakeItem]) -> None:
        """See :class:`avpref.execution.contract.Pool`."""
        min(self._queues, key=len).append(unit)
        assert sum(map(len, self._queues)) + len(self._ended) <= self.capacity

    def next_done(self) -> UnitOutcome:
        """See :class:`avpref.execution.contract.Pool`."""
        if self._ended:
            return self._ended.popleft()
        units = self._queues[self._generator.choice([index for index, queue in enumerate(self._queues) if queue])]
        unit = units.popleft()
        if any(item.item_id in self.deadly for item in unit.items):
            self.num_deaths += 1
            self._ended.extend(UnitOutcome(other) for other in units)
            units.clear()
            return UnitOutcome(unit, failure=Failure("ActorDied", "gone", is_death=True))
        pool = InProcessPool(self.worker)
        pool.submit(unit)
        return pool.next_done()


def item_ids(units: Sequence[Unit[Item]]) -> list[str]:
    """Ids of the items of ``units``, in the order of the plan."""
    return [item.item_id for unit in units for item in unit.items]
