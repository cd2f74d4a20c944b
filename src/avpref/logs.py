"""Progress for people and structured events for machines. Data goes to stdout; all of this goes to stderr or a file."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from avpref.store import storage_errors

TENTH = 0.1
LINE_EVERY_S = 30.0

Listener = Callable[[str, int, int, float], None]
"""Called with (stage, done, total, rate per second) as a stage goes on; flows attach Prefect artifacts here."""


class EventLog:
    """Appends one JSON object a line to ``path``: time, event, fields. A torn last line of a killed process is ended first.

    Raises StorageError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **fields: object) -> None:
        """Append one event."""
        line = json.dumps({"time_s": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False, default=str)
        with storage_errors(self.path):
            self._append(line.encode() + b"\n")

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as stream:
            stream.seek(0, os.SEEK_END)
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(line)


class Progress:
    """Progress of one stage: a bar with rate and ETA on a terminal, a line per 10 % or 30 s elsewhere."""

    def __init__(
        self, stage: str, total: int, *, unit: str = "", stream: TextIO | None = None, listener: Listener | None = None
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = 0
        self._stream = stream or sys.stderr
        self._listener = listener
        self._started = self._last_line = time.monotonic()
        self._first = 0
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

    def skip(self, count: int) -> None:
        """Count work that an earlier run finished; it does not enter the rate."""
        self._first += count
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)

    def advance(self, count: int = 1) -> None:
        """Count finished work."""
        before = self.done
        self.done += count
        if self._listener:
            self._listener(self.stage, self.done, self.total, self.rate_hz)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=rate(self.rate_hz))
        elif self.total and self._is_due(before):
            self._print_line()

    @property
    def rate_hz(self) -> float:
        """Items per second since the start, without what was already there."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def _is_due(self, before: int) -> bool:
        crossed = int(before / self.total / TENTH + 1e-9) != int(self.done / self.total / TENTH + 1e-9)
        return crossed or time.monotonic() - self._last_line > LINE_EVERY_S

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        left = self.total - self.done
        eta = f"{duration(left / self.rate_hz)} left" if self.rate_hz > 0 and left else "done" if not left else "…"
        share = 100 * self.done // self.total
        text = f"{self.stage}: {self.done}/{self.total} {self.unit} ({share} %), {rate(self.rate_hz)}, {eta}"
        self._stream.write(text + "\n")
        self._stream.flush()

    def _is_terminal(self) -> bool:
        return self._stream.isatty() and "CI" not in os.environ


def rate(per_s: float) -> str:
    """A rate per second, or per hour where less than one is done in a second."""
    return f"{per_s:.1f}/s" if per_s >= 1 else f"{3600 * per_s:.0f}/h"


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever has few digits."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.1f} h"


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


def say(message: str) -> None:
    """One line for the person at the terminal, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
