"""The failure ladder: retry, then bisect down to single candidates, then quarantine; stop when it is not the data's fault.

    transient exception, dead actor   the same unit again, up to ``ATTEMPTS`` times
    still failing                     halves, each with its own attempts
    a single item still failing       a quarantine row; everything else goes on
    too many, or all alike            CircuitOpen: the configuration is wrong

A unit that was split is committed whole from its pieces when the last piece is done, so a plan's names never change.
As long as nothing has succeeded, a failed unit goes behind the others: one success tells poisoned data from a wrong
configuration, and looking for it costs no more than looking for the poison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from avpref.datasets.rows import QuarantineRow
from avpref.errors import AvprefError, CircuitOpen
from avpref.execution.contract import Failure, Outcome, Pool
from avpref.observability.meters import StageMeter
from avpref.storage.event_log import EventLog, Level
from avpref.storage.unit import Unit
from avpref.storage.unit_files import CommittedUnits

ATTEMPTS = 2
ALIKE_BEFORE_OPEN = 6
"""So many units (or pieces, none inside another) that failed with one error while nothing succeeded stop the run."""


@dataclass
class _Split:
    """A unit that is being finished in two pieces."""

    work: _Work
    pieces: Sequence[Unit]
    num_open: int = 2


@dataclass
class _Work:
    unit: Unit
    attempts: int = 0
    split: _Split | None = None


class Ladder:
    """Drives units of one stage through a pool until each is committed.

    ``max_quarantined`` items may be lost before the circuit opens; ``quarantined`` were lost in an earlier execution.
    """

    def __init__(
        self,
        pool: Pool,
        files: CommittedUnits,
        events: EventLog,
        on_done: Callable[[int], None],
        max_quarantined: int,
        quarantined: Sequence[QuarantineRow] = (),
        meter: StageMeter | None = None,
    ) -> None:
        self.meter = meter or StageMeter("", 0)
        self.pool, self.files, self.events, self.on_done = pool, files, events, on_done
        self.max_quarantined, self.quarantined = max_quarantined, list(quarantined)
        self.has_succeeded = False
        self._failing: dict[str, str] = {}

    def run(self, units: Sequence[Unit]) -> None:
        """Finish every unit. Raises CircuitOpen, or a worker's fatal error as it was."""
        self._check_circuit()
        waiting = deque(_Work(unit) for unit in units if not self.files.exists(unit))
        flying: dict[str, _Work] = {}
        while waiting or flying:
            while waiting and len(flying) < self.pool.capacity:
                work = waiting.popleft()
                flying[work.unit.name] = work
                self._submit(work)
            outcome = self.pool.next_done()
            self._meter(outcome)
            again = self._settle(flying.pop(outcome.unit.name), outcome)
            if self.has_succeeded:
                waiting.extendleft(reversed(again))
            else:
                waiting.extend(again)

    def _submit(self, work: _Work) -> None:
        self.events.write(
            "unit_started", **self._about(work.unit), items=len(work.unit.items), attempt=work.attempts + 1
        )
        self.meter.unit_sent()
        self.pool.submit(work.unit)

    def _meter(self, outcome: Outcome) -> None:
        """Count the worker's seconds, and pass on what it logged."""
        unit, work = outcome.unit, outcome.work
        self.meter.unit_returned(work.busy_s)
        if outcome.receipt is not None:
            self.meter.time_unit(len(unit.items), work.run_s)
        for note in work.notes:
            level = Level[note.level] if note.level in Level.__members__ else Level.ERROR
            said: dict[str, Any] = {"logger": note.source, "message": note.message, "by": work.place}
            self.events.write("worker_said", level, **self._about(unit), **said)

    def _settle(self, work: _Work, outcome: Outcome) -> list[_Work]:
        """What is to be run again. What is committed is done, even if the actor died before its receipt was on the way."""
        if outcome.receipt is None and not self.files.exists(work.unit):
            if outcome.failure is None:
                return [work]  # innocent: it shared an actor with the unit that killed it
            return self._climb(work, outcome.failure)
        lost = self._count_lost(work.unit)
        self.has_succeeded |= lost < len(work.unit.items)
        took: dict[str, Any] = {"seconds": round(outcome.work.run_s, 4), "by": outcome.work.place}
        self.events.write("unit_done", **self._about(work.unit), items=len(work.unit.items), quarantined=lost, **took)
        self._finish(work)
        return []

    def _finish(self, work: _Work) -> None:
        split = work.split
        if split is None:
            self.meter.commit()
            self.on_done(len(work.unit.items))
            return
        split.num_open -= 1
        if not split.num_open:
            self.files.join(split.work.unit, split.pieces)
            self._finish(split.work)

    def _climb(self, work: _Work, failure: Failure) -> list[_Work]:
        unit = work.unit
        told = {
            "error": failure.error,
            "message": failure.message,
            "items": len(unit.items),
            "is_death": failure.is_death,
        }
        self.events.write("unit_failed", Level.WARNING, **self._about(unit), **told)
        if failure.is_fatal:
            raise failure.cause or AvprefError(f"{unit.stage}: {failure.message}")
        self._failing[unit.name] = failure.error
        alike = sum(error == failure.error for error in self._failing.values())
        if not self.has_succeeded and alike >= ALIKE_BEFORE_OPEN:
            raise self._open(f"{unit.stage}: every unit failed with {failure.error}: {failure.message}")
        if work.attempts + 1 < ATTEMPTS:
            return [_Work(unit, work.attempts + 1, work.split)]
        if len(unit.items) == 1:
            self._quarantine(work, failure)
            return []
        return self._bisect(work)

    def _bisect(self, work: _Work) -> list[_Work]:
        unit, middle = work.unit, len(work.unit.items) // 2
        pieces = [replace(unit, items=unit.items[:middle]), replace(unit, items=unit.items[middle:])]
        del self._failing[unit.name]  # its pieces speak for it
        split = _Split(work, pieces)
        for piece in pieces:
            if self.files.exists(piece):
                self._count_lost(piece)
                self._finish(_Work(piece, split=split))
        return [_Work(piece, split=split) for piece in pieces if not self.files.exists(piece)]

    def _quarantine(self, work: _Work, failure: Failure) -> None:
        unit = work.unit
        row = QuarantineRow(unit.items[0].item_id, unit.stage, failure.error, failure.message, ATTEMPTS)
        self.files.commit(unit, [], [row])
        self._count_lost(unit)
        self._finish(work)

    def _count_lost(self, unit: Unit) -> int:
        rows = self.files.quarantined([unit])
        for row in rows:
            self.events.write("quarantined", Level.WARNING, **self._about(unit) | asdict(row))
        self.meter.add_quarantined(len(rows))
        self.quarantined += rows
        self._check_circuit()
        return len(rows)

    def _check_circuit(self) -> None:
        if len(self.quarantined) > self.max_quarantined:
            last = self.quarantined[-1]
            found = f"{len(self.quarantined)} candidates are quarantined, {self.max_quarantined} were allowed"
            raise self._open(f"{found}; the last in stage {last.stage}: {last.error}: {last.message}")

    def _open(self, found: str) -> CircuitOpen:
        fix = f"correct the cause, delete the stage's folder in {self.files.store.uri('')} and run: avpref runs resume RUN"
        self.events.write("circuit_opened", Level.ERROR, stage=self.meter.counts.stage, message=found)
        return CircuitOpen(found, "failures of a few candidates only", fix)

    def _about(self, unit: Unit) -> dict[str, Any]:
        """What an event says of the unit that it is about."""
        return {"stage": unit.stage, "pool": self.meter.counts.workers.pool, "shard": unit.shard, "unit": unit.name}
