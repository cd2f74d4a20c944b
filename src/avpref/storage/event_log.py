"""The structured log of a run: one JSON object per line, ordered by a sequence number and not by a clock.

Every event has ``seq`` (1, 2, …), ``time_s`` (Unix time, for people), ``level``, ``run`` and ``event``, and where they are known
``stage``, ``pool``, ``shard``, ``unit``, ``candidate_id``. Workers do not write here: their messages come back with the outcome of
their unit, so that no file is shared between machines.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from avpref.storage.local_files import storage_errors

TAIL_BYTES = 4096
MESSAGE_CHARACTERS = 2000
TORN = "torn_line"
UNREAD = -1

Event = dict[str, Any]
"""One parsed line."""


class Level(IntEnum):
    """How much an event matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @property
    def word(self) -> str:
        """The level as events spell it."""
        return self.name.lower()


class EventLog:
    """Appends events to ``path``, in constant time per event.

    A run's owner keeps one log for as long as it works. The log remembers the sequence number of its last event and the size of the
    file behind it; the end of the file is read only where the size differs: at the first event, and after another writer. The torn
    last line of a killed process is ended first.

    Raises StorageError where the file cannot be written.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self.path, self.run = path, run
        self._threads = threading.Lock()
        self._sequence, self._num_bytes = 0, UNREAD

    def __reduce__(self) -> tuple[type[EventLog], tuple[Path, str]]:
        return EventLog, (self.path, self.run)

    def write(self, event: str, level: Level = Level.INFO, **fields: object) -> None:
        """Append one event. Texts longer than 2,000 characters are cut."""
        about = {"level": level.word, "run": self.run, "event": event, **{key: _cut(fields[key]) for key in fields}}
        with self._threads, storage_errors(self.path), _appending(self.path) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # keeps numbers unique even where two processes write at once
            num_bytes, sequence, is_torn = os.fstat(stream.fileno()).st_size, self._sequence, False
            if num_bytes != self._num_bytes:
                sequence, is_torn = _last_sequence(stream)
            document = {"seq": sequence + 1, "time_s": round(time.time(), 3), **about}
            text = json.dumps(document, ensure_ascii=False, default=str)
            line = b"\n" * is_torn + text.encode(errors="replace") + b"\n"
            stream.write(line)
            stream.flush()
            self._sequence, self._num_bytes = sequence + 1, num_bytes + len(line)


def read_events(path: Path, offset: int = 0, only: str = "") -> Iterator[tuple[Event, int]]:
    """Complete lines of the log from byte ``offset`` on, each with the offset behind it; none where there is no file.

    A line that is not a JSON object (its writer was killed) becomes an event ``torn_line`` with its text. With ``only``, lines
    without that text are skipped unparsed.
    """
    if not path.exists():
        return
    wanted = only.encode()
    with open(path, "rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            if wanted in line:
                yield _parsed(line), offset


def is_at_least(event: Event, level: Level) -> bool:
    """Whether an event matters at least as much as ``level``; one without a level, of an earlier release, is ``info``."""
    name = str(event.get("level", Level.INFO.word)).upper()
    return (Level[name] if name in Level.__members__ else Level.INFO) >= level


def _parsed(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict):
        return event
    return {"level": Level.WARNING.word, "event": TORN, "text": line.decode(errors="replace").rstrip("\n")}


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > MESSAGE_CHARACTERS:
        return f"{value[:MESSAGE_CHARACTERS]}… ({len(value)} characters)"
    return value


def _appending(path: Path) -> BinaryIO:
    """The file opened for appending and reading; its folder is made where it is absent."""
    try:
        return open(path, "a+b")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+b")


def _last_sequence(stream: BinaryIO) -> tuple[int, bool]:
    """The sequence number of the last event (0 without one), and whether the last line is torn."""
    size = stream.seek(0, os.SEEK_END)
    length = TAIL_BYTES
    while True:
        stream.seek(max(0, size - length))
        tail = stream.read()
        whole = tail.splitlines() if length >= size else tail.splitlines()[1:]
        last = next((number for number in map(_sequence, reversed(whole)) if number is not None), None)
        if last is not None or length >= size:
            return last or 0, bool(tail) and not tail.endswith(b"\n")
        length *= 4


def _sequence(line: bytes) -> int | None:
    number = _parsed(line).get("seq")
    return number if isinstance(number, int) else None
