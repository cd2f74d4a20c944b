"""The structured log of a run, as lines for people or as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avpref.cli.output import print_json, print_line
from avpref.cli.views.run_state import is_in_use
from avpref.errors import ConfigError
from avpref.storage.event_log import Event, Level, is_at_least, read_events
from avpref.storage.run_folder import RunFolder
from avpref.storage.work_folder import EVENTS_FILE

POLL_EVERY_S = 0.5
ALWAYS = ("seq", "time_s", "level", "run", "event")


@dataclass(frozen=True)
class Filter:
    """The events to print: of ``stage`` and its pools (all if empty), from ``level`` on, the newest ``limit`` (all if None)."""

    stage: str
    level: Level
    limit: int | None

    def accepts(self, event: Event) -> bool:
        """Whether ``event`` has the stage and the level."""
        stage = str(event.get("stage", ""))
        is_of_stage = not self.stage or stage == self.stage or stage.startswith(f"{self.stage}-")
        return is_of_stage and is_at_least(event, self.level)


def show(folder: RunFolder, wanted: Filter, as_json: bool) -> int:
    """Print the events so far, as one JSON document or as lines; returns exit code 0."""
    accepted = [event for event in events(folder.root, follow=False) if wanted.accepts(event)]
    newest = accepted[-wanted.limit :] if wanted.limit else accepted
    if as_json:
        print_json({"run_id": folder.run_id, "events": newest})
        return 0
    for event in newest:
        print_line(line(event))
    return 0


def follow(folder: RunFolder, wanted: Filter, as_json: bool) -> int:
    """Print all events, and new ones until the run ends, as JSON objects or as lines; returns exit code 0."""
    for event in events(folder.root, follow=True):
        if wanted.accepts(event):
            print_line(json.dumps(event, ensure_ascii=False) if as_json else line(event))
            sys.stdout.flush()
    return 0


def events(root: Path, follow: bool) -> Iterator[Event]:
    """The events so far, and with ``follow`` new ones until no command owns the run any more."""
    offset, is_last = 0, not follow
    while True:
        is_last = is_last or not is_in_use(root)  # asked before reading, so that the owner's last events are read
        for event, end in read_events(root / EVENTS_FILE, offset):
            offset = end
            yield event
        if is_last:
            return
        time.sleep(POLL_EVERY_S)


def line(event: Event) -> str:
    """An event for people: time, level, name and fields."""
    moment = datetime.fromtimestamp(event["time_s"], UTC).strftime("%Y-%m-%d %H:%M:%S") if "time_s" in event else "-"
    fields = (f"{name}={_cell(value)}" for name, value in event.items() if name not in ALWAYS)
    return "  ".join([moment, f"{event.get('level', 'info'):<7}", event.get("event", "-"), *fields])


def level_of(word: str) -> Level:
    """The level of that name. Raises ConfigError."""
    if word.upper() not in Level.__members__:
        names = ", ".join(level.word for level in Level)
        raise ConfigError(f"--level {word}", f"one of {names}", "avpref runs logs RUN --level warning")
    return Level[word.upper()]


def _cell(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(character.isspace() for character in text) else text
