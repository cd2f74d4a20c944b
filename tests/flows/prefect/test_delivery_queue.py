"""The delivery queue with a fake reporter: order, replaced and dropped messages, outages, and a bounded end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from avpref.flows.prefect.delivery_queue import DeliveryQueue, Undelivered
from avpref.flows.prefect.prefect_client import Message, PrefectReporter, Refused, Unreachable

LONG_S = 60.0


@dataclass(frozen=True)
class Named:
    """A message that only has a name."""

    name: str

    def __call__(self, reporter: PrefectReporter) -> None:
        raise AssertionError("the fake reporter calls no message")


class FakeReporter(PrefectReporter):
    """Keeps what is delivered; ``trouble`` may raise before, and ``hold`` stops the first delivery until it is set."""

    def __init__(self, trouble: Callable[[Message], None] = lambda message: None) -> None:
        self.delivered: list[Message] = []
        self.heartbeats = 0
        self.trouble = trouble
        self.hold = threading.Event()
        self.reached = threading.Event()

    def deliver(self, message: Message) -> None:
        if message is PrefectReporter.heartbeat:
            self.heartbeats += 1
            return
        self.reached.set()
        assert self.hold.wait(LONG_S)
        self.trouble(message)
        self.delivered.append(message)

    def close(self) -> None:
        pass


def failing(times: int, error: type[Exception]) -> Callable[[Message], None]:
    """Trouble that raises ``error`` the first ``times`` times."""
    left = iter(range(times))

    def trouble(message: Message) -> None:
        if next(left, None) is not None:
            raise error("away")

    return trouble


def started(number: int) -> Named:
    return Named(f"start of generate-{number}")


@pytest.fixture
def open_queue() -> Iterator[Callable[..., DeliveryQueue]]:
    made: list[tuple[DeliveryQueue, FakeReporter]] = []

    def make(reporter: FakeReporter, **settings: Any) -> DeliveryQueue:
        queue = DeliveryQueue(reporter, **{"first_wait_s": 0.001, "longest_wait_s": 0.01, **settings})
        made.append((queue, reporter))
        return queue

    yield make
    for queue, reporter in made:
        reporter.hold.set()
        queue.close(LONG_S)


def flushed(queue: DeliveryQueue, reporter: FakeReporter) -> Undelivered:
    reporter.hold.set()
    return queue.close(LONG_S)


def test_messages_arrive_in_the_order_in_which_they_were_put(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter()
    queue = open_queue(reporter)
    sent = [started(number) for number in range(50)]
    for message in sent:
        queue.put(message)
    assert not flushed(queue, reporter)
    assert reporter.delivered == sent


def test_waiting_progress_is_replaced_by_newer_progress(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter()
    queue = open_queue(reporter)
    queue.put(started(0))
    assert reporter.reached.wait(LONG_S)
    for percent in range(100):
        queue.put(Named(f"score {percent} %"), replaces=("run", "score"))
    queue.put(Named("train 7 %"), replaces=("run", "train"))
    queue.put(Named("end"))
    assert not flushed(queue, reporter)
    assert reporter.delivered == [started(0), Named("score 99 %"), Named("train 7 %"), Named("end")]


def test_progress_that_is_on_its_way_is_followed_by_what_replaced_it(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter()
    queue = open_queue(reporter)
    queue.put(Named("1 %"), replaces="score")
    assert reporter.reached.wait(LONG_S)
    queue.put(Named("2 %"), replaces="score")
    assert not flushed(queue, reporter)
    assert reporter.delivered == [Named("1 %"), Named("2 %")]


@pytest.mark.parametrize("outages", [1, 3, 8])
def test_an_outage_loses_nothing_and_keeps_the_order(outages: int, open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter(failing(outages, Unreachable))
    queue = open_queue(reporter)
    sent = [started(number) for number in range(5)]
    for message in sent:
        queue.put(message)
    assert not flushed(queue, reporter)
    assert reporter.delivered == sent


def test_what_the_server_refuses_is_counted_and_the_rest_goes_on(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter(failing(2, Refused))
    queue = open_queue(reporter)
    for number in range(5):
        queue.put(started(number))
    left = flushed(queue, reporter)
    assert (left.refused, left.waiting, left.last_error) == (2, 0, "away")
    assert reporter.delivered == [started(2), started(3), started(4)]


def test_memory_is_bounded_and_a_flow_run_is_never_dropped(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter()
    queue = open_queue(reporter, capacity=10)
    queue.put(Named("start of the flow run"), is_droppable=False)
    assert reporter.reached.wait(LONG_S)
    tables = [Named(f"table {number}") for number in range(100)]
    for table in tables:
        queue.put(table)
    queue.put(Named("end of the flow run"), is_droppable=False)
    left = flushed(queue, reporter)
    assert reporter.delivered == [Named("start of the flow run"), *tables[-8:], Named("end of the flow run")]
    assert left.dropped == 92 and left


def test_the_end_waits_only_so_long_for_a_server_that_is_away(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter(failing(10**9, Unreachable))
    reporter.hold.set()
    queue = open_queue(reporter)
    for number in range(3):
        queue.put(started(number))
    left = queue.close(0.2)
    assert (left.waiting, left.last_error) == (3, "away")


def test_a_long_backoff_is_cut_short_by_the_end(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter(failing(1, Unreachable))
    reporter.hold.set()
    queue = open_queue(reporter, first_wait_s=LONG_S, longest_wait_s=LONG_S)
    queue.put(started(0))
    assert reporter.reached.wait(LONG_S)
    assert not queue.close(LONG_S)
    assert reporter.delivered == [started(0)]


def test_heartbeats_are_sent_while_nothing_else_is(open_queue: Callable[..., DeliveryQueue]) -> None:
    beaten = threading.Event()

    class Counting(FakeReporter):
        def deliver(self, message: Message) -> None:
            super().deliver(message)
            if self.heartbeats >= 3:
                beaten.set()

    reporter = Counting()
    reporter.hold.set()
    open_queue(reporter, heartbeat_s=0.01)
    assert beaten.wait(LONG_S)


def test_without_a_heartbeat_none_is_sent(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter(failing(1, Unreachable))
    queue = open_queue(reporter)
    queue.put(started(0))
    assert not flushed(queue, reporter)
    assert reporter.heartbeats == 0


def test_a_heartbeat_follows_an_outage_at_once(open_queue: Callable[..., DeliveryQueue]) -> None:
    reporter = FakeReporter(failing(1, Unreachable))
    queue = open_queue(reporter, heartbeat_s=10 * LONG_S)
    queue.put(started(0))
    reporter.hold.set()
    deadline = time.monotonic() + LONG_S
    while reporter.heartbeats < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reporter.heartbeats == 2, "one at the start, one after the outage"
