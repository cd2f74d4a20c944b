"""Progress for people, for logs and for listeners."""

from __future__ import annotations

import io

import pytest

from avpref import console
from avpref.observability import progress as logs
from avpref.observability.meters import duration, rate
from avpref.observability.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_off_a_terminal_is_a_line_per_tenth() -> None:
    stream = io.StringIO()
    with Progress("score", 200, unit="clips", stream=stream) as progress:
        for _ in range(200):
            progress.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("score: 20/200 clips (10 %), ")
    assert lines[-1].startswith("score: 200/200 clips (100 %), ") and lines[-1].endswith("done")


def test_a_large_unit_that_crosses_many_tenths_is_one_line() -> None:
    stream = io.StringIO()
    with Progress("score", 100, stream=stream) as progress:
        progress.advance(95)
        progress.advance(1)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["95/100"]


def test_a_slow_stage_says_something_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(logs.time, "monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    with Progress("score", 1000, stream=stream) as progress:
        for _ in range(20):
            progress.advance()
    assert len(stream.getvalue().splitlines()) > 2


def test_what_an_earlier_execution_finished_does_not_enter_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    progress = Progress("score", 100, stream=io.StringIO())
    progress.skip(50)
    now[0] = 10.0
    progress.advance(20)
    assert progress.done == 70
    assert progress.rate_hz == 2.0


def test_listeners_hear_every_advance() -> None:
    heard: list[tuple[str, int, int]] = []
    progress = Progress(
        "score", 4, stream=io.StringIO(), listener=lambda said: heard.append((said.stage, said.done, said.total))
    )
    for _ in range(4):
        progress.advance()
    assert heard == [("score", done, 4) for done in (1, 2, 3, 4)]


def test_a_stage_with_nothing_to_do_is_silent() -> None:
    stream = io.StringIO()
    with Progress("score", 0, stream=stream) as progress:
        progress.skip(0)
    assert stream.getvalue() == ""


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    terminal = Terminal()
    with Progress("score", 10, stream=terminal) as progress:
        progress.advance(10)
    assert "10/10" in terminal.getvalue() and "%)" not in terminal.getvalue()
    monkeypatch.setenv("CI", "1")
    log = Terminal()
    with Progress("score", 10, stream=log) as progress:
        progress.advance(10)
    assert log.getvalue().startswith("score: 10/10")


def test_colour_is_left_out_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    with Progress("score", 10, stream=terminal) as progress:
        progress.advance(10)
    assert "\x1b[3" not in terminal.getvalue()


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


@pytest.mark.parametrize(
    ("per_s", "said"), [(12.34, "12.3/s"), (1.0, "1.0/s"), (0.5, "1800/h"), (0.01, "36/h"), (0.0, "0/h")]
)
def test_slow_work_is_counted_by_the_hour(per_s: float, said: str) -> None:
    assert rate(per_s) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (599, "599 s"), (601, "10 min"), (40000, "11.1 h")])
def test_long_waits_are_told_in_minutes_and_hours(seconds: float, said: str) -> None:
    assert duration(seconds) == said
