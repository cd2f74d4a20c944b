"""``avpref runs logs``: the structured log of a run, as lines for people or as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avpref.cli.output import print_json, print_line
from avpref.cli.views.run_state import is_in_use
from avpref.errors import ConfigError
from avpref.storage.documents import EVENTS_FILE
from avpref.storage.event_log import Event, Level, is_at_least, read_events
from avpref.storage.run_folder import RunFolder

LOOK_EVERY_S = 0.5
ALWAYS = ("seq", "time_s", "level", "run", "event")


def show_logs(folder: RunFolder, stage: str, level: str, follow: bool, limit: int | None, as_json: bool) -> int:
    """Print the events of ``stage`` (all if empty) that matter at least as ``level``; with ``follow`` until the run ends.

    JSON is one document, or one object a line where it follows. Raises ConfigError for a level that there is not.
    """
    least = level_of(level)
    wanted = (each for each in events(folder.root, follow) if is_at_least(each, least) and _is_of(each, stage))
    if as_json and not follow:
        found = list(wanted)
        print_json({"run_id": folder.run_id, "events": found[-limit:] if limit else found})
        return 0
    for event in wanted if follow or not limit else list(wanted)[-limit:]:
        print_line(json.dumps(event, ensure_ascii=False) if as_json else line(event))
        if follow:
            sys.stdout.flush()
    return 0


def events(root: Path, follow: bool) -> Iterator[Event]:
    """The events so far, and with ``follow`` those that come until nobody owns the run any more."""
    offset, is_last = 0, not follow
    while True:
        is_last = is_last or not is_in_use(root)  # asked before reading: what was written before the end is read
        for event, behind in read_events(root / EVENTS_FILE, offset):
            offset = behind
            yield event
        if is_last:
            return
        time.sleep(LOOK_EVERY_S)


def line(event: Event) -> str:
    """An event for people: when, level, what, and its fields."""
    when = datetime.fromtimestamp(event["time_s"], UTC).strftime("%Y-%m-%d %H:%M:%S") if "time_s" in event else "-"
    fields = (f"{name}={_cell(value)}" for name, value in event.items() if name not in ALWAYS)
    return "  ".join([when, f"{event.get('level', 'info'):<7}", event.get("event", "-"), *fields])


def level_of(word: str) -> Level:
    """The level of that name. Raises ConfigError."""
    if word.upper() not in Level.__members__:
        names = ", ".join(level.word for level in Level)
        raise ConfigError(f"--level {word}", f"one of {names}", "avpref runs logs RUN --level warning")
    return Level[word.upper()]


def _is_of(event: Event, stage: str) -> bool:
    """Whether an event is about ``stage``, or about one of its pools (``score-audiobox`` is of ``score``)."""
    about = str(event.get("stage", ""))
    return not stage or about == stage or about.startswith(f"{stage}-")


def _cell(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(each.isspace() for each in text) else text
