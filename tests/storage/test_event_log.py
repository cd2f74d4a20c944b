"""Events that survive kills, in an order that no clock decides."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from avpref.errors import StorageError
from avpref.storage import event_log
from avpref.storage.event_log import EventLog, Level, is_at_least, read_events
from avpref.storage.work_folder import WorkFolder


def events(path: Path) -> list[dict[str, Any]]:
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


def test_threads_may_share_a_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")

    def write(writer: int) -> None:
        for number in range(50):
            log.write("tick", writer=writer, number=number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    written = events(log.path)
    assert [event["seq"] for event in written] == list(range(1, 201))
    for writer in range(4):
        assert [event["number"] for event in written if event["writer"] == writer] == list(range(50))


@pytest.fixture
def tail_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sequence number that each reading of the file's end gave."""
    reads: list[int] = []
    original = event_log._last_sequence

    def note(stream: BinaryIO) -> tuple[int, bool]:
        last, is_torn = original(stream)
        reads.append(last)
        return last, is_torn

    monkeypatch.setattr(event_log, "_last_sequence", note)
    return reads


def test_the_end_of_the_file_is_read_once_by_its_owner(tmp_path: Path, tail_reads: list[int]) -> None:
    first = EventLog(tmp_path / "events.jsonl")
    for _ in range(100):
        first.write("tick")
    assert tail_reads == [0]
    later = EventLog(first.path)  # the next command that owns the run
    for _ in range(100):
        later.write("tick")
    assert tail_reads == [0, 100]
    assert [event["seq"] for event in events(first.path)] == list(range(1, 201))


def test_a_log_notices_what_another_process_has_appended(tmp_path: Path, tail_reads: list[int]) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("before")
    code = f"from pathlib import Path; from avpref.storage.event_log import EventLog; EventLog(Path({str(log.path)!r})).write('x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    log.write("after")
    log.write("after")
    assert [(event["seq"], event["event"]) for event in events(log.path)] == [
        (1, "before"), (2, "x"), (3, "after"), (4, "after")
    ]  # fmt: skip
    assert tail_reads == [0, 2]


def test_an_owner_killed_while_it_writes_loses_at_most_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(5):
        enough = (path.stat().st_size if path.exists() else 0) + 2_000
        process = os.fork()
        if process == 0:
            log = EventLog(path)
            while True:
                log.write("tick", text="x" * 500)
        while not path.exists() or path.stat().st_size < enough:
            time.sleep(0.001)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        with open(path, "r+b") as stream:  # as if the kill had come within the last write
            stream.truncate(path.stat().st_size - 300)
        log = EventLog(path)
        log.write("next owner")
        log.write("next owner")
    read = [event for event, _ in read_events(path)]
    numbers = [event["seq"] for event in read if event["event"] != "torn_line"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event["event"] for event in read].count("torn_line") == 5


def test_a_failed_write_does_not_use_up_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("first")

    def half_written(path: Path) -> BinaryIO:
        with open(path, "ab") as stream:
            stream.write(b'{"seq": 2, "eve')
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full_disk, pytest.raises(StorageError, match="no space left"):
        full_disk.setattr(event_log, "_appending", half_written)
        log.write("lost")
    log.write("second")
    assert [(event.get("seq"), event["event"]) for event, _ in read_events(log.path)] == [
        (1, "first"), (None, "torn_line"), (2, "second")
    ]  # fmt: skip


def test_a_removed_log_begins_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run" / "events.jsonl")
    log.write("before")
    shutil.rmtree(log.path.parent)
    log.write("after")
    assert [(event["seq"], event["event"]) for event in events(log.path)] == [(1, "after")]


def test_a_log_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", "r1")
    log.write("here")
    copy = pickle.loads(pickle.dumps(log))
    copy.write("there")
    log.write("here")
    assert [(event["seq"], event["event"], event["run"]) for event in events(log.path)] == [
        (1, "here", "r1"), (2, "there", "r1"), (3, "here", "r1")
    ]  # fmt: skip


def test_a_folder_has_one_log(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    assert folder.events is folder.events
    assert pickle.loads(pickle.dumps(folder)).events.path == folder.events.path


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
