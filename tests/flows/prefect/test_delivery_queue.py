"""The outbox with a fake desk: order, replaced and dropped messages, outages, and a bounded end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from avpref.flows.prefect.delivery_queue import Outbox, Refused, Undelivered, Unreachable
from avpref.flows.prefect.messages import (
    End,
    FlowEnded,
    FlowStarted,
    Message,
    Progressed,
    Tabled,
    TaskEnded,
    TaskStarted,
)

LONG_S = 60.0


class FakeDesk:
    """Keeps what is delivered; ``trouble`` may raise before, and ``hold`` stops the first delivery until it is set."""

    def __init__(self, trouble: Callable[[Message], None] = lambda message: None) -> None:
        self.delivered: list[Message] = []
        self.beats = 0
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

    def beat(self) -> None:
        self.beats += 1


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
def open_outbox() -> Iterator[Callable[..., Outbox]]:
    made: list[tuple[Outbox, FakeDesk]] = []

    def make(desk: FakeDesk, **settings: float | None) -> Outbox:
        outbox = Outbox(desk, **({"first_wait_s": 0.001, "longest_wait_s": 0.01} | settings))  # type: ignore[arg-type]
        made.append((outbox, desk))
        return outbox

    yield make
    for outbox, desk in made:
        desk.hold.set()
        outbox.close(LONG_S)


def flushed(outbox: Outbox, desk: FakeDesk) -> Undelivered:
    desk.hold.set()
    return outbox.close(LONG_S)


def test_messages_arrive_in_the_order_in_which_they_were_left(open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk()
    outbox = open_outbox(desk)
    sent = [FlowStarted("run", "retrain"), *[started(number) for number in range(50)], FlowEnded("run", End.COMPLETED)]
    for message in sent:
        outbox.put(message)
    assert not flushed(outbox, desk)
    assert desk.delivered == sent


def test_waiting_progress_is_replaced_by_newer_progress(open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk()
    outbox = open_outbox(desk)
    outbox.put(started(0))
    assert desk.reached.wait(LONG_S)
    for percent in range(100):
        outbox.put(progress(percent))
    outbox.put(progress(7.0, "avpref-train"))
    outbox.put(TaskEnded("task-0", End.COMPLETED))
    assert not flushed(outbox, desk)
    assert desk.delivered == [
        started(0),
        progress(99),
        progress(7.0, "avpref-train"),
        TaskEnded("task-0", End.COMPLETED),
    ]


def test_progress_that_is_on_its_way_is_followed_by_what_replaced_it(open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk()
    outbox = open_outbox(desk)
    outbox.put(progress(1.0))
    assert desk.reached.wait(LONG_S)
    outbox.put(progress(2.0))
    assert not flushed(outbox, desk)
    assert desk.delivered == [progress(1.0), progress(2.0)]


@pytest.mark.parametrize("outages", [1, 3, 8])
def test_an_outage_loses_nothing_and_keeps_the_order(outages: int, open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk(failing(outages, Unreachable))
    outbox = open_outbox(desk)
    sent = [started(number) for number in range(5)]
    for message in sent:
        outbox.put(message)
    assert not flushed(outbox, desk)
    assert desk.delivered == sent


def test_what_the_server_refuses_is_counted_and_the_rest_goes_on(open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk(failing(2, Refused))
    outbox = open_outbox(desk)
    for number in range(5):
        outbox.put(started(number))
    left = flushed(outbox, desk)
    assert (left.refused, left.waiting, left.last_error) == (2, 0, "away")
    assert desk.delivered == [started(2), started(3), started(4)]


def test_memory_is_bounded_and_a_flow_run_is_never_dropped(open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk()
    outbox = open_outbox(desk, capacity=10)
    outbox.put(FlowStarted("run", "retrain"))
    assert desk.reached.wait(LONG_S)
    tables = [Tabled("run", f"avpref-{number}", [], "") for number in range(100)]
    for table in tables:
        outbox.put(table)
    outbox.put(FlowEnded("run", End.COMPLETED))
    left = flushed(outbox, desk)
    assert desk.delivered == [FlowStarted("run", "retrain"), *tables[-8:], FlowEnded("run", End.COMPLETED)]
    assert left.dropped == 92 and left


def test_the_end_waits_only_so_long_for_a_server_that_is_away(open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk(failing(10**9, Unreachable))
    desk.hold.set()
    outbox = open_outbox(desk)
    for number in range(3):
        outbox.put(started(number))
    left = outbox.close(0.2)
    assert (left.waiting, left.last_error) == (3, "away")


def test_a_long_backoff_is_cut_short_by_the_end(open_outbox: Callable[..., Outbox]) -> None:
    desk = FakeDesk(failing(1, Unreachable))
    desk.hold.set()
    outbox = open_outbox(desk, first_wait_s=LONG_S, longest_wait_s=LONG_S)
    outbox.put(started(0))
    assert desk.reached.wait(LONG_S)
    assert not outbox.close(LONG_S)
    assert desk.delivered == [started(0)]


def test_signs_of_life_are_sent_while_nothing_else_is(open_outbox: Callable[..., Outbox]) -> None:
    beaten = threading.Event()

    class Heart(FakeDesk):
        def beat(self) -> None:
            super().beat()
            if self.beats >= 3:
                beaten.set()

    desk = Heart()
    desk.hold.set()
    open_outbox(desk, beat_s=0.01)
    assert beaten.wait(LONG_S)
