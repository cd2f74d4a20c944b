"""The delivery queue with a fake transport: order, replaced and dropped messages, outages, and a bounded end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from avpref.flows.prefect.delivery_queue import DeliveryQueue, Refused, Undelivered, Unreachable
from avpref.flows.prefect.messages import (
    FlowEnded,
    FlowStarted,
    Message,
    Progressed,
    TableMade,
    TaskEnded,
    TaskStarted,
)

LONG_S = 60.0


class FakeTransport:
    """Keeps what is delivered; ``trouble`` may raise before, and ``hold`` stops the first delivery until it is set."""

    def __init__(self, trouble: Callable[[Message], None] = lambda message: None) -> None:
        self.delivered: list[Message] = []
        self.heartbeats = 0
        self.trouble = trouble
        self.hold = threading.Event()
        self.reached = threading.Event()

    def deliver(self, message: Message) -> None:
        self.reached.set()
        assert self.hold.wait(LONG_S)
        self.trouble(message)
        self.delivered.append(message)

    def close(self) -> None:
        pass

    def heartbeat(self) -> None:
        self.heartbeats += 1


def failing(times: int, error: type[Exception]) -> Callable[[Message], None]:
    """Trouble that raises ``error`` the first ``times`` times."""
    left = iter(range(times))

    def trouble(message: Message) -> None:
        if next(left, None) is not None:
            raise error("away")

    return trouble


def started(number: int) -> TaskStarted:
    return TaskStarted(f"task-{number}", "run", "run_shard", f"generate-{number}")


def progress(percent: float, key: str = "avpref-score") -> Progressed:
    return Progressed("run", key, percent, "")


@pytest.fixture
def open_queue() -> Iterator[Callable[..., DeliveryQueue]]:
    made: list[tuple[DeliveryQueue, FakeTransport]] = []

    def make(transport: FakeTransport, **settings: Any) -> DeliveryQueue:
        queue = DeliveryQueue(transport, **{"first_wait_s": 0.001, "longest_wait_s": 0.01, **settings})
        made.append((queue, transport))
        return queue

    yield make
    for queue, transport in made:
        transport.hold.set()
        queue.close(LONG_S)


def flushed(queue: DeliveryQueue, transport: FakeTransport) -> Undelivered:
    transport.hold.set()
    return queue.close(LONG_S)


def test_messages_arrive_in_the_order_in_which_they_were_put(open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport()
    queue = open_queue(transport)
    sent: list[Message] = [
        FlowStarted("run", "retrain"),
        *[started(number) for number in range(50)],
        FlowEnded("run", StateType.COMPLETED),
    ]
    for message in sent:
        queue.put(message)
    assert not flushed(queue, transport)
    assert transport.delivered == sent


def test_waiting_progress_is_replaced_by_newer_progress(open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport()
    queue = open_queue(transport)
    queue.put(started(0))
    assert transport.reached.wait(LONG_S)
    for percent in range(100):
        queue.put(progress(percent))
    queue.put(progress(7.0, "avpref-train"))
    queue.put(TaskEnded("task-0", StateType.COMPLETED))
    assert not flushed(queue, transport)
    assert transport.delivered == [
        started(0),
        progress(99),
        progress(7.0, "avpref-train"),
        TaskEnded("task-0", StateType.COMPLETED),
    ]


def test_progress_that_is_on_its_way_is_followed_by_what_replaced_it(open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport()
    queue = open_queue(transport)
    queue.put(progress(1.0))
    assert transport.reached.wait(LONG_S)
    queue.put(progress(2.0))
    assert not flushed(queue, transport)
    assert transport.delivered == [progress(1.0), progress(2.0)]


@pytest.mark.parametrize("outages", [1, 3, 8])
def test_an_outage_loses_nothing_and_keeps_the_order(outages: int, open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport(failing(outages, Unreachable))
    queue = open_queue(transport)
    sent = [started(number) for number in range(5)]
    for message in sent:
        queue.put(message)
    assert not flushed(queue, transport)
    assert transport.delivered == sent


def test_what_the_server_refuses_is_counted_and_the_rest_goes_on(open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport(failing(2, Refused))
    queue = open_queue(transport)
    for number in range(5):
        queue.put(started(number))
    left = flushed(queue, transport)
    assert (left.refused, left.waiting, left.last_error) == (2, 0, "away")
    assert transport.delivered == [started(2), started(3), started(4)]


def test_memory_is_bounded_and_a_flow_run_is_never_dropped(open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport()
    queue = open_queue(transport, capacity=10)
    queue.put(FlowStarted("run", "retrain"))
    assert transport.reached.wait(LONG_S)
    tables = [TableMade("run", f"avpref-{number}", [], "") for number in range(100)]
    for table in tables:
        queue.put(table)
    queue.put(FlowEnded("run", StateType.COMPLETED))
    left = flushed(queue, transport)
    assert transport.delivered == [FlowStarted("run", "retrain"), *tables[-8:], FlowEnded("run", StateType.COMPLETED)]
    assert left.dropped == 92 and left


def test_the_end_waits_only_so_long_for_a_server_that_is_away(open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport(failing(10**9, Unreachable))
    transport.hold.set()
    queue = open_queue(transport)
    for number in range(3):
        queue.put(started(number))
    left = queue.close(0.2)
    assert (left.waiting, left.last_error) == (3, "away")


def test_a_long_backoff_is_cut_short_by_the_end(open_queue: Callable[..., DeliveryQueue]) -> None:
    transport = FakeTransport(failing(1, Unreachable))
    transport.hold.set()
    queue = open_queue(transport, first_wait_s=LONG_S, longest_wait_s=LONG_S)
    queue.put(started(0))
    assert transport.reached.wait(LONG_S)
    assert not queue.close(LONG_S)
    assert transport.delivered == [started(0)]


def test_heartbeats_are_sent_while_nothing_else_is(open_queue: Callable[..., DeliveryQueue]) -> None:
    beaten = threading.Event()

    class Counting(FakeTransport):
        def heartbeat(self) -> None:
            super().heartbeat()
            if self.heartbeats >= 3:
                beaten.set()

    transport = Counting()
    transport.hold.set()
    open_queue(transport, heartbeat_s=0.01)
    assert beaten.wait(LONG_S)
