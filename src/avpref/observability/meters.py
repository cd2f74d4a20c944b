"""Meters of a stage: items done, units in flight and waiting, how busy the workers are, cost, and time left.

:class:`StageMeter` counts; :class:`StageMeasure` is its reading at one moment. Terminals, artifacts, endpoints and documents are
given measures only.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

MS_PER_S = 1000.0
S_PER_H = 3600.0
MEDIAN, TAIL = 0.5, 0.95


@dataclass(frozen=True)
class Workers:
    """The workers of a stage: the pool's name, how many workers it has, and the GPUs (or the share of one) that each holds."""

    pool: str = "main"
    num_actors: int = 1
    gpus_per_actor: float = 0.0


@dataclass(frozen=True)
class StageMeasure:
    """The reading of a stage's meter at one moment, counted since this execution began.

    ``total`` items are planned, in ``units_total`` units; ``done`` of them are finished. Of the finished ones ``present`` were
    finished by earlier executions, and ``quarantined`` were given up. ``busy_s`` is the sum of all workers' seconds of work;
    ``p50_ms`` and ``p95_ms`` are quantiles, over units, of a unit's milliseconds per item (None before the first finished unit).
    """

    stage: str
    unit: str
    workers: Workers
    total: int
    done: int = 0
    present: int = 0
    quarantined: int = 0
    units_total: int = 0
    units_done: int = 0
    units_in_flight: int = 0
    shards_total: int = 0
    shards_done: int = 0
    elapsed_s: float = 0.0
    busy_s: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> StageMeasure:
        """Read :meth:`document` back. Raises KeyError or TypeError for a wrong or missing key."""
        workers = Workers(**{field.name: document[field.name] for field in fields(Workers)})
        own = [field.name for field in fields(StageMeasure) if field.name != "workers"]
        optional = ("shards_total", "shards_done")  # absent in documents of earlier releases
        counts = {name: document[name] for name in own if name in document or name not in optional}
        return StageMeasure(workers=workers, **counts)

    @property
    def made(self) -> int:
        """Items finished in this execution."""
        return self.done - self.present

    @property
    def units_waiting(self) -> int:
        """Depth of the queue: units that no worker has yet."""
        return max(0, self.units_total - self.units_done - self.units_in_flight)

    @property
    def rate_hz(self) -> float:
        """Items per second in this execution."""
        return self.made / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at this rate; None before there is a rate."""
        if self.done >= self.total:
            return 0.0
        return (self.total - self.done) / self.rate_hz if self.rate_hz > 0 else None

    @property
    def busy_share(self) -> float:
        """Share of the workers' time in which they worked, 0 to 1: 1 where no worker ever waited."""
        offered_s = self.workers.num_actors * self.elapsed_s
        return self.busy_s / offered_s if offered_s > 0 else 0.0

    @property
    def gpu_s(self) -> float:
        """GPU-seconds: seconds of work times the GPUs that a worker holds meanwhile. 0 where none is held."""
        return self.busy_s * self.workers.gpus_per_actor

    @property
    def quarantine_share(self) -> float:
        """Share of the finished items, 0 to 1, that were given up."""
        return self.quarantined / self.done if self.done else 0.0

    @property
    def text(self) -> str:
        """One line for people: counts, rate, how busy the workers are, quarantined items, time left."""
        parts = [f"{self.done}/{self.total} {self.unit}".rstrip(), rate(self.rate_hz)]
        if self.busy_s:
            parts.append(f"busy {100 * self.busy_share:.0f} %")
        if self.quarantined:
            parts.append(f"{self.quarantined} quarantined")
        return ", ".join([*parts, self.left])

    @property
    def left(self) -> str:
        """The time left, for people."""
        if self.done >= self.total:
            return "done"
        return "…" if self.eta_s is None else f"{duration(self.eta_s)} left"

    def document(self) -> dict[str, Any]:
        """All fields and the derived numbers as a JSON document; the fields of ``workers`` stand beside the others."""
        derived = ("made", "units_waiting", "rate_hz", "eta_s", "busy_share", "gpu_s", "quarantine_share")
        whole = asdict(self)
        return whole | whole.pop("workers") | {name: getattr(self, name) for name in derived}


class StageMeter:
    """Counts one stage's work. Only the thread that drives the stage may call it."""

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
        self.counts = StageMeasure(
            stage, unit, workers or Workers(), total, units_total=num_units, shards_total=num_shards
        )
        self._started = time.monotonic()
        self._unit_ms: list[float] = []
        self._sorted_ms: list[float] = []

    def add_present(self, items: int, units: int = 0) -> None:
        """Count items and units that an earlier execution finished; they do not enter the rate."""
        now = self.counts
        self.counts = replace(
            now, present=now.present + items, done=now.done + items, units_done=now.units_done + units
        )

    def finish(self, items: int) -> None:
        """Count finished items."""
        self.counts = replace(self.counts, done=self.counts.done + items)

    def unit_sent(self) -> None:
        """Count a unit that a worker was given."""
        self.counts = replace(self.counts, units_in_flight=self.counts.units_in_flight + 1)

    def unit_returned(self, busy_s: float) -> None:
        """Count a unit that came back, finished or not, and the worker's seconds of work."""
        now = self.counts
        self.counts = replace(now, units_in_flight=now.units_in_flight - 1, busy_s=now.busy_s + busy_s)

    def mark_all_busy(self) -> None:
        """Count all workers as busy since the stage began."""
        busy_s = self.counts.workers.num_actors * (time.monotonic() - self._started)
        self.counts = replace(self.counts, busy_s=busy_s)

    def time_unit(self, items: int, seconds: float) -> None:
        """Record the seconds that a finished unit of ``items`` items took."""
        if items:
            item_ms = MS_PER_S * seconds / items
            self._unit_ms.append(item_ms)
            insort(self._sorted_ms, item_ms)

    def commit(self) -> None:
        """Count a planned unit that is finished."""
        self.counts = replace(self.counts, units_done=self.counts.units_done + 1)

    def end_shard(self) -> None:
        """Count a finished shard."""
        self.counts = replace(self.counts, shards_done=self.counts.shards_done + 1)

    def add_quarantined(self, items: int) -> None:
        """Count items that were given up."""
        self.counts = replace(self.counts, quarantined=self.counts.quarantined + items)

    def snapshot(self) -> Snapshot:
        """The start of a span; see :meth:`since`."""
        return Snapshot(len(self._unit_ms), self.counts.busy_s, time.monotonic())

    def since(self, start: Snapshot) -> Span:
        """The time and work between ``start`` and now."""
        times = sorted(self._unit_ms[start.num_units :])
        busy_s = self.counts.busy_s - start.busy_s
        seconds = time.monotonic() - start.at_s
        quantiles = quantile(times, MEDIAN), quantile(times, TAIL)
        return Span(seconds, busy_s, busy_s * self.counts.workers.gpus_per_actor, *quantiles)

    def measure(self) -> StageMeasure:
        """The counts with the times of now."""
        return replace(
            self.counts,
            elapsed_s=time.monotonic() - self._started,
            p50_ms=quantile(self._sorted_ms, MEDIAN),
            p95_ms=quantile(self._sorted_ms, TAIL),
        )


@dataclass(frozen=True)
class Snapshot:
    """The state of a meter at the start of a span."""

    num_units: int
    busy_s: float
    at_s: float


@dataclass(frozen=True)
class Span:
    """The cost of a part of a stage: wall seconds, seconds of work, GPU-seconds, milliseconds per item (None: no unit)."""

    seconds: float
    busy_s: float
    gpu_s: float
    p50_ms: float | None
    p95_ms: float | None


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of ``ordered`` (ascending) that at least ``share`` (0 to 1) of them do not exceed; None where it is empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def rate(per_s: float) -> str:
    """A rate as text: per second, or per hour where it is below one per second."""
    return f"{per_s:.1f}/s" if per_s >= 1 else f"{S_PER_H * per_s:.0f}/h"


def duration(seconds: float) -> str:
    """A duration as text: seconds below 10 minutes, minutes below 10 hours, else hours."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / S_PER_H:.1f} h"
