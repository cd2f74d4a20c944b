"""The structured log of a run: one JSON object a line, in an order that no clock decides.

Every event has ``seq`` (its place in the log, 1, 2, …), ``time_s`` (Unix time, for people), ``level``, ``run`` and ``event``, and where
they are known ``stage``, ``pool``, ``shard``, ``unit``, ``candidate_id``. Workers write nothing here: what they have to say comes back
with the outcome of their unit, so no file is shared between machines.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from avpref.storage.local_files import storage_errors

TAIL_BYTES = 4096
MESSAGE_CHARACTERS = 2000
TORN = "torn_line"

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
    """Appends events to ``path``. A torn last line of a killed process is ended first.

    Raises StorageError where the file cannot be written.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self.path, self.run = path, run

    def write(self, event: str, level: Level = Level.INFO, **fields: object) -> None:
        """Append one event. Texts longer than 2,000 characters are cut."""
        about = {"level": level.word, "run": self.run, "event": event, **{key: _cut(fields[key]) for key in fields}}
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                sequence, is_torn = _end(stream)
                line = json.dumps(
                    {"seq": sequence + 1, "time_s": round(time.time(), 3), **about}, ensure_ascii=False, default=str
                )
                stream.write(b"\n" * is_torn + line.encode(errors="replace") + b"\n")


def read_events(path: Path, offset: int = 0, only: str = "") -> Iterator[tuple[Event, int]]:
    """Whole lines of the log from byte ``offset`` on, each with the offset behind it. No file has no lines.

    A line that is no JSON object (its writer was killed) is an event ``torn_line`` with its text. With ``only``, lines without
    that text are passed over without being parsed.
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
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"level": Level.WARNING.word, "event": TORN, "text": line.decode(errors="replace").rstrip("\n")}


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > MESSAGE_CHARACTERS:
        return f"{value[:MESSAGE_CHARACTERS]}… ({len(value)} characters)"
    return value


def _end(stream: BinaryIO) -> tuple[int, bool]:
    """The last event's place in the log, and whether the last line is torn."""
    size = stream.seek(0, os.SEEK_END)
    length = TAIL_BYTES
    while True:
        stream.seek(max(0, size - length))
        tail = stream.read()
        whole = tail.splitlines() if length >= size else tail.splitlines()[1:]
        found = next((place for place in map(_place, reversed(whole)) if place is not None), None)
        if found is not None or length >= size:
            return found or 0, bool(tail) and not tail.endswith(b"\n")
        length *= 4


def _place(line: bytes) -> int | None:
    found = _parsed(line).get("seq")
    return found if isinstance(found, int) else None
