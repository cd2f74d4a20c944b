"""Runs the units of a stage: retries a failing unit, bisects it, and quarantines single items that still fail.

    exception, dead actor             the same unit again, ``MAX_ATTEMPTS`` attempts in all
    still failing                     its halves, each with attempts of its own
    a single item still failing       a quarantine row; the other items go on
    too many failures, or all alike   CircuitOpen: the configuration is probably wrong

The file of a bisected unit is joined from its halves when both are finished, so the file names of a plan do not change.
Until a first unit succeeds, failed units go to the end of the queue: a success elsewhere shows that the data are at fault
and not the configuration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic

from avpref.datasets.rows import QuarantineRow
from avpref.errors import AvprefError, CircuitOpen
from avpref.execution.contract import Failure, Pool, UnitOutcome
from avpref.observability.meters import StageMeter
from avpref.storage.event_log import EventLog, Level
from avpref.storage.unit import Item, ItemT, Unit
from avpref.storage.unit_files import CommittedUnits

MAX_ATTEMPTS = 2
MAX_SAME_ERRORS = 6
"""Number of units (or disjoint halves) failing with the same error that stops the run while nothing has succeeded."""


@dataclass
class _Bisection(Generic[ItemT]):
    """A unit that is finished in two halves."""

    whole: _PendingUnit[ItemT]
    halves: Sequence[Unit[ItemT]]
    num_unfinished: int = 2


@dataclass
class _PendingUnit(Generic[ItemT]):
    """A unit that is not finished, its failed attempts, and the bisection that it is a half of, if any."""

    unit: Unit[ItemT]
    num_attempts: int = 0
    bisection: _Bisection[ItemT] | None = None


class UnitRunner(Generic[ItemT]):
    """Runs units of one stage in a pool until each is committed.

    ``on_progress`` is called with the number of items of every planned unit that is finished. If more than
    ``max_quarantined`` items are quarantined, the circuit opens; ``quarantined`` were quarantined by an earlier execution.
    """

    def __init__(
        self,
        pool: Pool[ItemT],
        files: CommittedUnits,
        events: EventLog,
        on_progress: Callable[[int], None],
        max_quarantined: int,
        quarantined: Sequence[QuarantineRow] = (),
        meter: StageMeter | None = None,
    ) -> None:
        self.meter = meter or StageMeter("", 0)
        self.pool, self.files, self.events, self.on_progress = pool, files, events, on_progress
        self.max_quarantined, self.quarantined = max_quarantined, list(quarantined)
        self.has_succeeded = False
        self._last_errors: dict[str, str] = {}
        self._waiting: deque[_PendingUnit[ItemT]] = deque()
        self._in_flight: dict[str, _PendingUnit[ItemT]] = {}
        self._queued: set[str] = set()
        self._unfinished: set[str] = set()

    def run(self, units: Sequence[Unit[ItemT]], following: Sequence[Unit[ItemT]] = ()) -> None:
        """Finish every unit; workers that are free meanwhile begin ``following``, which a later call finishes.

        Raises CircuitOpen, or a worker's fatal error unchanged.
        """
        self._check_circuit()
        self._queue(units)
        self._queue(following)
        names = {unit.name for unit in units}
        while not names.isdisjoint(self._unfinished):
            self._step()

    def _queue(self, units: Sequence[Unit[ItemT]]) -> None:
        """Put the units that are neither queued nor committed behind those that wait."""
        new = [unit for unit in units if unit.name not in self._queued and not self.files.exists(unit)]
        self._queued.update(unit.name for unit in new)
        self._unfinished.update(unit.name for unit in new)
        self._waiting.extend(_PendingUnit(unit) for unit in new)

    def _step(self) -> None:
        """Send as many waiting units as the pool takes, and record the next outcome."""
        while self._waiting and len(self._in_flight) < self.pool.capacity:
            pending = self._waiting.popleft()
            self._in_flight[pending.unit.name] = pending
            self._submit(pending)
        outcome = self.pool.next_done()
        self._record_report(outcome)
        to_run = self._record_outcome(self._in_flight.pop(outcome.unit.name), outcome)
        if self.has_succeeded:
            self._waiting.extendleft(reversed(to_run))
        else:
            self._waiting.extend(to_run)

    def _submit(self, pending: _PendingUnit[ItemT]) -> None:
        unit = pending.unit
        fields: dict[str, Any] = {"items": len(unit.items), "attempt": pending.num_attempts + 1}
        self.events.write("unit_started", **self._event_fields(unit), **fields)
        self.meter.unit_sent()
        self.pool.submit(unit)

    def _record_report(self, outcome: UnitOutcome) -> None:
        """Count the worker's seconds, and copy what it logged to the event log."""
        unit, report = outcome.unit, outcome.report
        self.meter.unit_returned(report.busy_s)
        if outcome.receipt is not None:
            self.meter.time_unit(len(unit.items), report.run_s)
        for note in report.notes:
            level = Level[note.level] if note.level in Level.__members__ else Level.ERROR
            fields: dict[str, Any] = {"logger": note.source, "message": note.message, "by": report.process}
            self.events.write("worker_said", level, **self._event_fields(unit), **fields)

    def _record_outcome(self, pending: _PendingUnit[ItemT], outcome: UnitOutcome) -> list[_PendingUnit[ItemT]]:
        """Record how a unit ended; returns the units that must run (again).

        A unit whose file exists is finished, even if its actor died before the receipt arrived.
        """
        unit = pending.unit
        if outcome.receipt is None and not self.files.exists(unit):
            if outcome.failure is None:
                return [pending]  # it shared an actor with the unit that killed it
            return self._retry_or_bisect(pending, outcome.failure)
        num_quarantined = self._record_quarantined(unit)
        self.has_succeeded |= num_quarantined < len(unit.items)
        fields: dict[str, Any] = {"items": len(unit.items), "quarantined": num_quarantined}
        fields |= {"seconds": round(outcome.report.run_s, 4), "by": outcome.report.process}
        self.events.write("unit_done", **self._event_fields(unit), **fields)
        self._finish(pending)
        return []

    def _finish(self, pending: _PendingUnit[ItemT]) -> None:
        """Count a planned unit as finished; join the halves of a bisection if this was the last one."""
        bisection = pending.bisection
        if bisection is None:
            self._unfinished.discard(pending.unit.name)
            self.meter.commit()
            self.on_progress(len(pending.unit.items))
            return
        bisection.num_unfinished -= 1
        if not bisection.num_unfinished:
            self.files.join(bisection.whole.unit, bisection.halves)
            self._finish(bisection.whole)

    def _retry_or_bisect(self, pending: _PendingUnit[ItemT], failure: Failure) -> list[_PendingUnit[ItemT]]:
        unit = pending.unit
        fields: dict[str, Any] = {"error": failure.error, "message": failure.message}
        fields |= {"items": len(unit.items), "is_death": failure.is_death}
        self.events.write("unit_failed", Level.WARNING, **self._event_fields(unit), **fields)
        if failure.is_fatal:
            raise failure.cause or AvprefError(f"{unit.stage}: {failure.message}")
        self._last_errors[unit.name] = failure.error
        num_same = sum(error == failure.error for error in self._last_errors.values())
        if not self.has_succeeded and num_same >= MAX_SAME_ERRORS:
            raise self._open_circuit(f"{unit.stage}: every unit failed with {failure.error}: {failure.message}")
        if pending.num_attempts + 1 < MAX_ATTEMPTS:
            return [_PendingUnit(unit, pending.num_attempts + 1, pending.bisection)]
        if len(unit.items) == 1:
            self._quarantine(pending, failure)
            return []
        return self._bisect(pending)

    def _bisect(self, pending: _PendingUnit[ItemT]) -> list[_PendingUnit[ItemT]]:
        unit, middle = pending.unit, len(pending.unit.items) // 2
        halves = [replace(unit, items=unit.items[:middle]), replace(unit, items=unit.items[middle:])]
        del self._last_errors[unit.name]  # from here on the errors of its halves count
        bisection = _Bisection(pending, halves)
        for half in halves:
            if self.files.exists(half):
                self._record_quarantined(half)
                self._finish(_PendingUnit(half, bisection=bisection))
        return [_PendingUnit(half, bisection=bisection) for half in halves if not self.files.exists(half)]

    def _quarantine(self, pending: _PendingUnit[ItemT], failure: Failure) -> None:
        """Commit a unit of one item without a row, and with a quarantine row."""
        unit = pending.unit
        row = QuarantineRow(unit.items[0].item_id, unit.stage, failure.error, failure.message, MAX_ATTEMPTS)
        self.files.commit(unit, [], [row])
        self._record_quarantined(unit)
        self._finish(pending)

    def _record_quarantined(self, unit: Unit[ItemT]) -> int:
        """Count and log the quarantined items of a committed unit; returns their number."""
        rows = self.files.quarantined([unit])
        for row in rows:
            self.events.write("quarantined", Level.WARNING, **self._event_fields(unit) | asdict(row))
        self.meter.add_quarantined(len(rows))
        self.quarantined += rows
        self._check_circuit()
        return len(rows)

    def _check_circuit(self) -> None:
        if len(self.quarantined) > self.max_quarantined:
            last = self.quarantined[-1]
            counts = f"{len(self.quarantined)} candidates are quarantined, {self.max_quarantined} were allowed"
            raise self._open_circuit(f"{counts}; the last in stage {last.stage}: {last.error}: {last.message}")

    def _open_circuit(self, reason: str) -> CircuitOpen:
        fix = f"correct the cause, delete the stage's folder in {self.files.store.uri('')} and run: avpref runs resume RUN"
        self.events.write("circuit_opened", Level.ERROR, stage=self.meter.counts.stage, message=reason)
        return CircuitOpen(reason, "failures of a few candidates only", fix)

    def _event_fields(self, unit: Unit[Item]) -> dict[str, Any]:
        """Fields that every event about a unit has."""
        return {"stage": unit.stage, "pool": self.meter.counts.workers.pool, "shard": unit.shard, "unit": unit.name}
