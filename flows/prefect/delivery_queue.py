"""Messages for a server, delivered in order by a thread of their own, so that work never waits for the server.

A server that does not answer is asked again, less and less often, until it is back. Memory is bounded: a newer progress
message replaces one that waits, and where too many wait the oldest that can be spared are dropped and counted.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from avpref.console import say
from avpref.flows.prefect.messages import Message, is_droppable, replaces
from avpref.observability.meters import duration

CAPACITY = 10_000
"""Messages that may wait."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
SPOKEN_AFTER_S = 5.0
"""An outage is said on stderr when it has lasted so long; a restart goes by unnoticed."""


class Unreachable(Exception):
    """The server does not answer, or says that it cannot now: the same message is tried again."""


class Refused(Exception):
    """The server answers, and does not take this message: the next one is tried."""


class Desk(Protocol):
    """Who hands messages to the server. Called by one thread only."""

    def deliver(self, message: Message) -> None:
        """Hand over one message. Raises Unreachable or Refused."""
        ...

    def beat(self) -> None:
        """Tell the server that the flow runs in progress are alive. Raises Unreachable or Refused."""
        ...

    def close(self) -> None:
        """Let the connection go; the last call."""
        ...


@dataclass(frozen=True)
class Undelivered:
    """What an outbox could not deliver, and why."""

    waiting: int = 0
    dropped: int = 0
    refused: int = 0
    last_error: str = ""

    def __bool__(self) -> bool:
        return bool(self.waiting or self.dropped or self.refused)


class Outbox:
    """A bounded queue and the thread that empties it. ``beat_s``: seconds between signs of life, None for none."""

    def __init__(
        self,
        desk: Desk,
        *,
        beat_s: float | None = None,
        capacity: int = CAPACITY,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._desk, self._beat_s, self._capacity = desk, beat_s, capacity
        self._first_wait_s, self._longest_wait_s = first_wait_s, longest_wait_s
        self._waiting: dict[Hashable, Message] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._is_abandoned = False
        self._dropped = self._refused = self._failures = 0
        self._away_since = self._last_beat = 0.0
        self._is_spoken = False
        self._last_error = ""
        self._thread = threading.Thread(target=self._work, name="avpref-outbox", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Leave a message; returns at once."""
        with self._changed:
            key = replaces(message)
            self._waiting[next(self._numbers) if key is None else key] = message
            if len(self._waiting) > self._capacity:
                self._drop_oldest()
            self._changed.notify()

    def close(self, limit_s: float) -> Undelivered:
        """Wait at most ``limit_s`` seconds until everything is delivered; returns what is not."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(limit_s)
        with self._changed:
            self._is_abandoned = True
            return Undelivered(len(self._waiting), self._dropped, self._refused, self._last_error)

    def _work(self) -> None:
        while self._has_work():
            try:
                self._work_once()
            except Unreachable as error:
                self._pause(error)
            else:
                self._note_answer()
        self._desk.close()

    def _has_work(self) -> bool:
        with self._changed:
            while not (self._waiting or self._closing.is_set() or self._is_beat_due()):
                self._changed.wait(self._beat_in_s())
            return not self._is_abandoned and bool(self._waiting or not self._closing.is_set())

    def _work_once(self) -> None:
        if self._is_beat_due():
            try:
                self._desk.beat()
            except Refused as error:
                self._last_error = str(error)
            self._last_beat = time.monotonic()
        elif self._waiting:
            self._deliver_first()

    def _deliver_first(self) -> None:
        with self._changed:
            key, message = next(iter(self._waiting.items()))
        try:
            self._desk.deliver(message)
        except Refused as error:
            self._refused += 1
            self._last_error = str(error)
        with self._changed:
            if self._waiting.get(key) is message:  # otherwise a newer one took its place meanwhile
                del self._waiting[key]

    def _drop_oldest(self) -> None:
        oldest = next((key for key, message in self._waiting.items() if is_droppable(message)), None)
        if oldest is not None:
            del self._waiting[oldest]
            self._dropped += 1

    def _is_beat_due(self) -> bool:
        return self._beat_in_s() == 0.0 and not self._closing.is_set()

    def _beat_in_s(self) -> float | None:
        if self._beat_s is None:
            return None
        return max(0.0, self._last_beat + self._beat_s - time.monotonic())

    def _pause(self, error: Unreachable) -> None:
        now = time.monotonic()
        self._away_since = self._away_since or now
        self._last_error = str(error)
        if not self._is_spoken and now - self._away_since >= SPOKEN_AFTER_S:
            self._is_spoken = True
            say(f"the Prefect server does not answer ({error}); work goes on, reporting resumes when it is back")
        wait_s = min(self._first_wait_s * 2**self._failures, self._longest_wait_s)
        self._failures = min(self._failures + 1, 30)
        if self._closing.is_set():
            time.sleep(min(wait_s, self._first_wait_s))
        else:
            self._closing.wait(wait_s)

    def _note_answer(self) -> None:
        if self._is_spoken:
            say(f"the Prefect server is back after {duration(time.monotonic() - self._away_since)}; reporting resumes")
        if self._failures and self._beat_s is not None:
            self._last_beat = time.monotonic() - self._beat_s  # a sign of life before an automation looks for one
        self._away_since, self._failures, self._is_spoken = 0.0, 0, False
