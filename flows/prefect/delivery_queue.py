"""Delivers messages to a server, in order, on a thread of its own: the work that sends them never waits for the server.

While the server does not answer, the thread repeats the oldest message with growing pauses. Memory is bounded: newer
progress replaces progress that waits, and a full queue drops and counts its oldest droppable message.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from avpref.console import say
from avpref.flows.prefect.messages import Message, is_droppable, replacement_key
from avpref.observability.meters import duration

CAPACITY = 10_000
"""Largest number of waiting messages."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
ANNOUNCED_AFTER_S = 5.0
"""Length of an outage before it is printed to stderr, so that a restart of the server prints nothing."""


class Unreachable(Exception):
    """The server does not answer, or cannot now; the message is sent again."""


class Refused(Exception):
    """The server rejected the message; it is counted and not sent again."""


class Transport(Protocol):
    """Sends messages to the server. Only the queue's thread calls it."""

    def deliver(self, message: Message) -> None:
        """Send one message. Raises Unreachable or Refused."""
        ...

    def heartbeat(self) -> None:
        """Send a heartbeat of every flow run in progress. Raises Unreachable or Refused."""
        ...

    def close(self) -> None:
        """Close the connection; the last call."""
        ...


@dataclass(frozen=True)
class Undelivered:
    """Numbers of messages that were not delivered, and the last error."""

    waiting: int = 0
    dropped: int = 0
    refused: int = 0
    last_error: str = ""

    def __bool__(self) -> bool:
        return bool(self.waiting or self.dropped or self.refused)


class DeliveryQueue:
    """A bounded queue in memory and the thread that empties it.

    ``heartbeat_s`` is the number of seconds between heartbeats, None for none; pauses after failures double from
    ``first_wait_s`` to ``longest_wait_s``.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        heartbeat_s: float | None = None,
        capacity: int = CAPACITY,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._transport, self._heartbeat_s, self._capacity = transport, heartbeat_s, capacity
        self._first_wait_s, self._longest_wait_s = first_wait_s, longest_wait_s
        self._waiting: dict[Hashable, Message] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._is_abandoned = False
        self._dropped = self._refused = self._failures = 0
        self._away_since = self._last_heartbeat = 0.0
        self._is_announced = False
        self._last_error = ""
        self._thread = threading.Thread(target=self._work, name="avpref-delivery", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Add a message; returns at once."""
        with self._changed:
            key = replacement_key(message)
            self._waiting[next(self._numbers) if key is None else key] = message
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
        while self._has_work():
            try:
                self._work_once()
            except Unreachable as error:
                self._pause(error)
            else:
                self._note_answer()
        self._transport.close()

    def _has_work(self) -> bool:
        with self._changed:
            while not (self._waiting or self._closing.is_set() or self._is_heartbeat_due()):
                self._changed.wait(self._heartbeat_in_s())
            return not self._is_abandoned and bool(self._waiting or not self._closing.is_set())

    def _work_once(self) -> None:
        if self._is_heartbeat_due():
            try:
                self._transport.heartbeat()
            except Refused as error:
                self._last_error = str(error)
            self._last_heartbeat = time.monotonic()
        elif self._waiting:
            self._deliver_first()

    def _deliver_first(self) -> None:
        with self._changed:
            key, message = next(iter(self._waiting.items()))
        try:
            self._transport.deliver(message)
        except Refused as error:
            self._refused += 1
            self._last_error = str(error)
        with self._changed:
            if self._waiting.get(key) is message:  # otherwise a newer message replaced it meanwhile
                del self._waiting[key]

    def _drop_oldest(self) -> None:
        oldest = next((key for key, message in self._waiting.items() if is_droppable(message)), None)
        if oldest is not None:
            del self._waiting[oldest]
            self._dropped += 1

    def _is_heartbeat_due(self) -> bool:
        return self._heartbeat_in_s() == 0.0 and not self._closing.is_set()

    def _heartbeat_in_s(self) -> float | None:
        if self._heartbeat_s is None:
            return None
        return max(0.0, self._last_heartbeat + self._heartbeat_s - time.monotonic())

    def _pause(self, error: Unreachable) -> None:
        now = time.monotonic()
        self._away_since = self._away_since or now
        self._last_error = str(error)
        if not self._is_announced and now - self._away_since >= ANNOUNCED_AFTER_S:
            self._is_announced = True
            say(f"the Prefect server does not answer ({error}); work goes on, reporting resumes when it is back")
        wait_s = min(self._first_wait_s * 2**self._failures, self._longest_wait_s)
        self._failures = min(self._failures + 1, 30)
        if self._closing.is_set():
            time.sleep(min(wait_s, self._first_wait_s))
        else:
            self._closing.wait(wait_s)

    def _note_answer(self) -> None:
        if self._is_announced:
            say(f"the Prefect server is back after {duration(time.monotonic() - self._away_since)}; reporting resumes")
        if self._failures and self._heartbeat_s is not None:
            self._last_heartbeat = time.monotonic() - self._heartbeat_s  # due now, before an automation misses it
        self._away_since, self._failures, self._is_announced = 0.0, 0, False
