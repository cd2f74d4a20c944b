"""Progress for people, on stderr. Data goes to stdout; structured events are in :mod:`avpref.storage.event_log`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

from avpref.observability.meters import StageMeasure, StageMeter, rate

TENTH = 0.1
LINE_EVERY_S = 30.0

Listener = Callable[[StageMeasure], None]
"""Called with the measure of a running stage; Prefect artifacts, documents and the endpoint are attached as listeners."""


class Progress:
    """Progress of one stage: a bar with rate and ETA on a terminal, a line per 10 % or 30 s elsewhere."""

    def __init__(
        self,
        stage: str,
        total: int,
        *,
        unit: str = "",
        stream: TextIO | None = None,
        listener: Listener | None = None,
        meter: StageMeter | None = None,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.meter = meter or StageMeter(stage, total, unit=unit)
        self._stream = stream or sys.stderr
        self._listener = listener
        self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._is_terminal() and self.total:
            self._bar = _bar(self._stream, self.unit)
            self._bar.start()
            self._task = self._bar.add_task(self.stage, total=self.total, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def done(self) -> int:
        """Finished items, those of earlier executions included."""
        return self.meter.counts.done

    @property
    def rate_hz(self) -> float:
        """Items per second in this execution; items of earlier executions do not count."""
        return self.meter.measure().rate_hz

    def skip(self, count: int, units: int = 0) -> None:
        """Count work that an earlier execution finished; it does not enter the rate."""
        self.meter.add_present(count, units)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)

    def advance(self, count: int = 1) -> None:
        """Count finished work."""
        before = self.done
        self.meter.finish(count)
        measure = self.meter.measure()
        if self._listener:
            self._listener(measure)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=_rate(measure))
        elif self.total and self._is_due(before):
            self._print_line(measure)

    def _is_due(self, before: int) -> bool:
        crossed = int(before / self.total / TENTH + 1e-9) != int(self.done / self.total / TENTH + 1e-9)
        return crossed or time.monotonic() - self._last_line > LINE_EVERY_S

    def _print_line(self, measure: StageMeasure) -> None:
        self._last_line = time.monotonic()
        share = 100 * self.done // self.total
        text = f"{self.stage}: {self.done}/{self.total} {self.unit} ({share} %), {_rate(measure)}, {measure.left}"
        self._stream.write(text + "\n")
        self._stream.flush()

    def _is_terminal(self) -> bool:
        return self._stream.isatty() and "CI" not in os.environ


def _rate(measure: StageMeasure) -> str:
    """Rate, share of busy time and quarantined items, which stand beside the counts in a line or bar."""
    parts = [rate(measure.rate_hz)]
    if measure.busy_s:
        parts.append(f"busy {100 * measure.busy_share:.0f} %")
    if measure.quarantined:
        parts.append(f"{measure.quarantined} quarantined")
    return ", ".join(parts)


def _bar(stream: TextIO, unit: str) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(file=stream, no_color="NO_COLOR" in os.environ))
