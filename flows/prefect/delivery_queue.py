"""Delivers messages to a server, in order, on a thread of its own: the work that sends them never waits for the server.

While the server does not answer, the thread repeats the oldest message with growing pauses. Memory is bounded: newer
progress replaces progress that waits, and a full queue drops and counts its oldest droppable message.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass

from avpref.console import say
from avpref.flows.prefect.prefect_client import Message, PrefectReporter, Refused, Unreachable
from avpref.observability.meters import duration

CAPACITY = 10_000
"""Largest number of waiting messages."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
ANNOUNCED_AFTER_S = 5.0
"""Length of an outage before it is printed to stderr, so that a restart of the server prints nothing."""


@dataclass(frozen=True)
class Undelivered:
    """Numbers of messages that were not delivered, and the last error."""

    waiting: int = 0
    dropped: int = 0
    refused: int = 0
    last_error: str = ""

    def __bool__(self) -> bool:
        return bool(self.waiting or self.dropped or self.refused)


@dataclass(frozen=True)
class _Waiting:
    """A message in the queue."""

    key: Hashable
    message: Message
    is_droppable: bool


_HEARTBEAT = _Waiting(None, PrefectReporter.heartbeat, True)


class DeliveryQueue:
    """A bounded queue in memory and the thread that empties it; the thread closes ``reporter`` at its end.

    ``heartbeat_s`` is the number of seconds between heartbeats, None for none; pauses after failures double from
    ``first_wait_s`` to ``longest_wait_s``.
    """

    def __init__(
        self,
        reporter: PrefectReporter,
        *,
        heartbeat_s: float | None = None,
        capacity: int = CAPACITY,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._reporter, self._capacity = reporter, capacity
        self._first_wait_s, self._longest_wait_s = first_wait_s, longest_wait_s
        self._heartbeat_s = heartbeat_s or math.inf
        self._heartbeat_at = 0.0 if heartbeat_s else math.inf
        self._waiting: dict[Hashable, _Waiting] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._is_abandoned = self._is_announced = False
        self._dropped = self._refused = 0
        self._wait_s, self._away_since = first_wait_s, 0.0
        self._last_error = ""
        self._thread = threading.Thread(target=self._work, name="avpref-delivery", daemon=True)
        self._thread.start()

    def put(self, message: Message, *, replaces: Hashable = None, is_droppable: bool = True) -> None:
        """Add a message; returns at once.

        It takes the place of a waiting message with the same ``replaces``, unless that is None. ``is_droppable`` says whether
        a full queue may drop it.
        """
        with self._changed:
            key = next(self._numbers) if replaces is None else replaces
            self._waiting[key] = _Waiting(key, message, is_droppable)
            if len(self._waiting) > self._capacity:
                self._drop_oldest()
            self._changed.notify()

    def close(self, limit_s: float) -> Undelivered:
        """Wait at most ``limit_s`` seconds for the delivery of everything; returns the number of messages that remain."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(limit_s)
        with self._changed:
            self._is_abandoned = True
            return Undelivered(len(self._waiting), self._dropped, self._refused, self._last_error)

    def _work(self) -> None:
        while (waiting := self._next()) is not None:
            try:
                self._reporter.deliver(waiting.message)
            except Unreachable as error:
                self._pause(error)
                continue
            except Refused as error:
                self._refused += 1
                self._last_error = str(error)
            self._note_answer()
            self._remove(waiting)
        self._reporter.close()

    def _next(self) -> _Waiting | None:
        """Wait for something to deliver: a heartbeat that is due, else the oldest message. None at the end."""
        with self._changed:
            while not self._is_abandoned:
                heartbeat_in_s = self._heartbeat_at - time.monotonic()
                if heartbeat_in_s <= 0 and not self._closing.is_set():
                    return _HEARTBEAT
                if self._waiting:
                    return next(iter(self._waiting.values()))
                if self._closing.is_set():
                    return None
                self._changed.wait(min(heartbeat_in_s, threading.TIMEOUT_MAX))
        return None

    def _remove(self, delivered: _Waiting) -> None:
        if delivered is _HEARTBEAT:
            self._heartbeat_at = time.monotonic() + self._heartbeat_s
        with self._changed:
            if self._waiting.get(delivered.key) is delivered:  # otherwise a newer message replaced it meanwhile
                del self._waiting[delivered.key]

    def _drop_oldest(self) -> None:
        oldest = next((waiting.key for waiting in self._waiting.values() if waiting.is_droppable), None)
        if oldest is not None:
            del self._waiting[oldest]
            self._dropped += 1

    def _pause(self, error: Unreachable) -> None:
        now = time.monotonic()
        self._away_since = self._away_since or now
        self._last_error = str(error)
        if not self._is_announced and now - self._away_since >= ANNOUNCED_AFTER_S:
            self._is_announced = True
            say(f"the Prefect server does not answer ({error}); work goes on, reporting resumes when it is back")
        if self._closing.is_set():
            time.sleep(self._first_wait_s)
        else:
            self._closing.wait(self._wait_s)
        self._wait_s = min(2 * self._wait_s, self._longest_wait_s)

    def _note_answer(self) -> None:
        if self._is_announced:
            say(f"the Prefect server is back after {duration(time.monotonic() - self._away_since)}; reporting resumes")
        if self._away_since and self._heartbeat_s < math.inf:
            self._heartbeat_at = 0.0  # now, before an automation misses it
        self._wait_s, self._away_since, self._is_announced = self._first_wait_s, 0.0, False
