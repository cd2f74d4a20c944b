"""Meters of a stage: how much is done, in flight and waiting, how busy the workers are, what it takes, when it ends.

:class:`StageMeter` counts; :class:`StageMeasure` is what it says at a moment, and all that terminals, artifacts, endpoints
and documents are given.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MS_PER_S = 1000.0
S_PER_H = 3600.0
MEDIAN, TAIL = 0.5, 0.95


@dataclass(frozen=True)
class Workers:
    """Who works: the pool's name, how many workers it has, and the GPUs (or the share of one) that each holds."""

    pool: str = "main"
    num_actors: int = 1
    gpus_per_actor: float = 0.0


@dataclass(frozen=True)
class StageMeasure:
    """A stage at a moment, counted since this execution began.

    ``total`` items are planned, in ``units_total`` units; ``done`` of them are finished, ``present`` of which were finished
    before, and ``quarantined`` were given up. ``busy_s`` is the sum of all workers' seconds of work; ``p50_ms`` and ``p95_ms`` are
    quantiles, over units, of a unit's milliseconds per item (None before the first unit is finished).
    """

    stage: str
    unit: str
    workers: Workers
    total: int
    done: int
    present: int
    quarantined: int
    units_total: int
    units_done: int
    units_in_flight: int
    shards_total: int
    shards_done: int
    elapsed_s: float
    busy_s: float
    p50_ms: float | None
    p95_ms: float | None

    @property
    def made(self) -> int:
        """Items finished in this execution."""
        return self.done - self.present

    @property
    def units_waiting(self) -> int:
        """Depth of the queue: units that no worker has been given yet."""
        return max(0, self.units_total - self.units_done - self.units_in_flight)

    @property
    def rate_hz(self) -> float:
        """Items per second in this execution."""
        return self.made / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left at this rate; None before there is a rate."""
        if self.done >= self.total:
            return 0.0
        return (self.total - self.done) / self.rate_hz if self.rate_hz > 0 else None

    @property
    def busy_share(self) -> float:
        """Share of the workers' time in which they worked: 1 where no worker ever waited."""
        offered_s = self.workers.num_actors * self.elapsed_s
        return self.busy_s / offered_s if offered_s > 0 else 0.0

    @property
    def gpu_s(self) -> float:
        """GPU-seconds: seconds of work times the GPUs that a worker holds meanwhile. 0 where none is held."""
        return self.busy_s * self.workers.gpus_per_actor

    @property
    def quarantine_share(self) -> float:
        """Share of the finished items that were given up."""
        return self.quarantined / self.done if self.done else 0.0

    @property
    def text(self) -> str:
        """One line for people: rate, what is left, what was lost, how busy the workers are."""
        parts = [f"{self.done}/{self.total} {self.unit}".rstrip(), rate(self.rate_hz)]
        if self.busy_s:
            parts.append(f"busy {100 * self.busy_share:.0f} %")
        if self.quarantined:
            parts.append(f"{self.quarantined} quarantined")
        return ", ".join([*parts, self.left])

    @property
    def left(self) -> str:
        """What is left of the time, for people."""
        if self.done >= self.total:
            return "done"
        return "…" if self.eta_s is None else f"{duration(self.eta_s)} left"

    def document(self) -> dict[str, Any]:
        """Everything, derived numbers included, as a JSON document."""
        derived = ("made", "units_waiting", "rate_hz", "eta_s", "busy_share", "gpu_s", "quarantine_share")
        whole = asdict(self)
        return whole | whole.pop("workers") | {name: getattr(self, name) for name in derived}


class StageMeter:
    """Counts one stage's work. Every number comes from the thread that drives the stage."""

    def __init__(
        self,
        stage: str,
        total: int,
        *,
        unit: str = "",
        num_units: int = 0,
        num_shards: int = 0,
        workers: Workers | None = None,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.workers = workers or Workers()
        self.num_units, self.num_shards, self.shards_done = num_units, num_shards, 0
        self.done = self.present = self.quarantined = self.units_done = self.units_in_flight = 0
        self.busy_s = 0.0
        self._started = time.monotonic()
        self._ms: list[float] = []
        self._sorted_ms: list[float] = []

    def find(self, items: int, units: int = 0) -> None:
        """Count what an earlier execution finished; it does not enter the rate."""
        self.present += items
        self.done += items
        self.units_done += units

    def finish(self, items: int) -> None:
        """Count finished items."""
        self.done += items

    def send(self) -> None:
        """Count a unit that a worker was given."""
        self.units_in_flight += 1

    def take_back(self, busy_s: float) -> None:
        """Count a unit that came back, finished or not, and the worker's seconds."""
        self.units_in_flight -= 1
        self.busy_s += busy_s

    def be_busy(self) -> None:
        """Count all workers as busy since the stage began."""
        self.busy_s = self.workers.num_actors * (time.monotonic() - self._started)

    def time_unit(self, items: int, seconds: float) -> None:
        """Note what the items of a finished unit took each."""
        if items:
            each_ms = MS_PER_S * seconds / items
            self._ms.append(each_ms)
            insort(self._sorted_ms, each_ms)

    def commit(self) -> None:
        """Count a planned unit that is finished."""
        self.units_done += 1

    def end_shard(self) -> None:
        """Count a finished shard."""
        self.shards_done += 1

    def lose(self, items: int) -> None:
        """Count items that were given up."""
        self.quarantined += items

    def mark(self) -> Mark:
        """A moment to measure from; see :meth:`since`."""
        return Mark(len(self._ms), self.busy_s, time.monotonic())

    def since(self, mark: Mark) -> Span:
        """What happened since ``mark``."""
        times = sorted(self._ms[mark.num_units :])
        busy_s = self.busy_s - mark.busy_s
        seconds = time.monotonic() - mark.at_s
        quantiles = quantile(times, MEDIAN), quantile(times, TAIL)
        return Span(seconds, busy_s, busy_s * self.workers.gpus_per_actor, *quantiles)

    def measure(self) -> StageMeasure:
        """What is to be said now."""
        return StageMeasure(
            stage=self.stage,
            unit=self.unit,
            workers=self.workers,
            total=self.total,
            done=self.done,
            present=self.present,
            quarantined=self.quarantined,
            units_total=self.num_units,
            units_done=self.units_done,
            units_in_flight=self.units_in_flight,
            shards_total=self.num_shards,
            shards_done=self.shards_done,
            elapsed_s=time.monotonic() - self._started,
            busy_s=self.busy_s,
            p50_ms=quantile(self._sorted_ms, MEDIAN),
            p95_ms=quantile(self._sorted_ms, TAIL),
        )


@dataclass(frozen=True)
class Mark:
    """A moment of a meter."""

    num_units: int
    busy_s: float
    at_s: float


@dataclass(frozen=True)
class Span:
    """What a part of a stage took: wall seconds, seconds of work, GPU-seconds, milliseconds per item (None: no unit)."""

    seconds: float
    busy_s: float
    gpu_s: float
    p50_ms: float | None
    p95_ms: float | None


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of ``ordered`` (ascending) that at least ``share`` of them do not exceed; None of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def rate(per_s: float) -> str:
    """A rate per second, or per hour where less than one is done in a second."""
    return f"{per_s:.1f}/s" if per_s >= 1 else f"{S_PER_H * per_s:.0f}/h"


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever has few digits."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / S_PER_H:.1f} h"
