"""Events that survive kills, in an order that no clock decides."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from avpref.errors import StorageError
from avpref.storage.event_log import EventLog, Level, is_at_least, read_events


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_lines_with_time_name_and_fields(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    log.write("started", run="ä", path=Path("x"))
    log.write("finished", rows=3)
    first, second = events(log.path)
    assert (first["event"], first["run"], first["path"]) == ("started", "ä", "x")
    assert (second["event"], second["rows"]) == ("finished", 3)
    assert isinstance(first["time_s"], float)


def test_the_torn_line_of_a_killed_writer_costs_that_line_alone(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("before")
    process = os.fork()
    if process == 0:
        with open(log.path, "ab") as stream:
            stream.write(b'{"event": "to')
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    log.write("after")
    lines = log.path.read_text().splitlines()
    assert [json.loads(lines[0])["event"], lines[1], json.loads(lines[2])["event"]] == [
        "before",
        '{"event": "to',
        "after",
    ]


def test_many_processes_may_write_one_log(tmp_path: Path) -> None:
    log, children = EventLog(tmp_path / "events.jsonl"), []
    for writer in range(4):
        process = os.fork()
        if process == 0:
            for number in range(50):
                log.write("tick", writer=writer, number=number)
            os._exit(0)
        children.append(process)
    assert [os.waitpid(process, 0)[1] for process in children] == [0] * 4
    found = events(log.path)
    for writer in range(4):
        assert [each["number"] for each in found if each["writer"] == writer] == list(range(50))


def test_a_log_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the run's folder should be")
    with pytest.raises(StorageError, match=r"events\.jsonl"):
        EventLog(tmp_path / "run" / "events.jsonl").write("started")


def test_every_event_has_its_place_level_and_run(tmp_path: Path) -> None:
    for number in range(3):  # a new object each time, as every stage has its own
        EventLog(tmp_path / "events.jsonl", "r1").write("tick", Level.WARNING, number=number)
    found = events(tmp_path / "events.jsonl")
    assert [each["seq"] for each in found] == [1, 2, 3]
    assert {(each["level"], each["run"]) for each in found} == {("warning", "r1")}


def test_the_order_does_not_depend_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = EventLog(tmp_path / "events.jsonl"), iter([5e9, 1e9, 2e9])
    monkeypatch.setattr("avpref.storage.event_log.time.time", lambda: next(clock))
    for number in range(3):
        log.write("tick", number=number)
    found = sorted(events(log.path), key=lambda each: each["seq"])
    assert [each["number"] for each in found] == [0, 1, 2]


@pytest.mark.parametrize("length", [10, 5_000, 100_000])
def test_the_place_goes_on_behind_lines_of_any_length(tmp_path: Path, length: int) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("first")
    with open(log.path, "ab") as stream:
        stream.write(json.dumps({"seq": 7, "event": "long", "text": "x" * length}).encode() + b"\n" + b"y" * length)
    log.write("after")
    assert [each.get("seq") for each, _ in read_events(log.path)] == [1, 7, None, 8]


def test_a_long_message_is_cut_and_says_so(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("unit_failed", message="e" * 50_000)
    (found,) = events(log.path)
    assert len(found["message"]) < 2100 and "50000 characters" in found["message"]


def test_reading_goes_on_from_an_offset_and_leaves_half_lines_for_later(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert list(read_events(log.path)) == []
    log.write("one")
    ((first, offset),) = read_events(log.path)
    with open(log.path, "ab") as stream:
        stream.write(b'{"seq": 2, "eve')
    assert list(read_events(log.path, offset)) == []
    with open(log.path, "ab") as stream:
        stream.write(b'nt": "two"}\n')
    assert first["event"] == "one"
    assert [each["event"] for each, _ in read_events(log.path, offset)] == ["two"]


def test_a_torn_line_is_shown_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"seq": 1, "event": "a"}\n{"seq": \n[1]\n')
    assert [each["event"] for each, _ in read_events(path)] == ["a", "torn_line", "torn_line"]


def test_levels_are_ordered_and_events_of_earlier_releases_are_information() -> None:
    assert is_at_least({"level": "error"}, Level.WARNING) and not is_at_least({"level": "info"}, Level.WARNING)
    assert is_at_least({"event": "old"}, Level.INFO) and not is_at_least({"event": "old"}, Level.WARNING)
