"""The unit runner with pools that fail as scripted: retry, bisection, quarantine, circuit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import AvprefError, CircuitOpen, ConfigError, MediaError, StorageError
from avpref.execution.contract import Failure, Pool, UnitOutcome
from avpref.execution.fakes import FakeActorPool, FakeItem, FakeRow, FakeWorker, fake_units, item_ids
from avpref.execution.pool import InProcessPool
from avpref.execution.retry import MAX_ATTEMPTS, MAX_SAME_ERRORS, UnitRunner
from avpref.storage.event_log import EventLog
from avpref.storage.local_files import LocalFiles
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

ROWS = tables.SKIPPED
"""Any small table: prompt_id, reason, detail."""


@dataclass
class Bench:
    folder: Path
    worker: FakeWorker
    files: UnitFiles
    done: int = 0

    @property
    def events(self) -> list[dict[str, object]]:
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def advance(self, count: int) -> None:
        self.done += count

    def run(
        self, units: Sequence[Unit[FakeItem]], pool: Pool[FakeItem] | None = None, max_quarantined: int = 1000
    ) -> UnitRunner[FakeItem]:
        log = EventLog(self.folder / "events.jsonl")
        runner = UnitRunner(pool or InProcessPool(self.worker), self.files, log, self.advance, max_quarantined)
        runner.run(units)
        return runner

    def result(self, units: Sequence[Unit[FakeItem]]) -> tuple[list[str], list[str]]:
        """Ids of the rows and of the quarantine, in the order of the plan's files."""
        rows, quarantined = self.files.read(units)
        return rows["prompt_id"].to_pylist(), [row.candidate_id for row in quarantined]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def make_bench(folder: Path) -> Bench:
    files = UnitFiles(LocalFiles(folder / "units"), ROWS)
    return Bench(folder, FakeWorker(files), files)


def test_units_that_succeed_run_once_each_and_in_order(bench: Bench) -> None:
    units = fake_units(4, 3)
    bench.run(units)
    assert bench.result(units) == (item_ids(units), [])
    assert set(bench.worker.num_runs.values()) == {1}
    assert bench.done == 12


def test_committed_units_are_not_run_again(bench: Bench) -> None:
    units = fake_units(3, 2)
    bench.run(units[:2])
    bench.worker.num_runs.clear()
    bench.run(units)
    assert sorted(bench.worker.num_runs) == item_ids(units[2:])


def test_a_transient_failure_is_tried_again_and_loses_nothing(bench: Bench) -> None:
    units = fake_units(3, 4)
    bench.worker.flaky = Counter({"i0001": MAX_ATTEMPTS - 1, "i0006": MAX_ATTEMPTS - 1})
    runner = bench.run(units)
    assert bench.result(units) == (item_ids(units), [])
    assert runner.quarantined == []
    assert [event["error"] for event in bench.events if event["event"] == "unit_failed"] == ["TimeoutError"] * 2


@settings(max_examples=30)
@given(data=st.data())
def test_exactly_the_failing_items_are_quarantined_in_any_order_of_events(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any failing and killing items, any sizes, any interleaving: all other items have rows, in the order of the plan."""
    units = fake_units(data.draw(st.integers(3, 6)), data.draw(st.integers(1, 9)))
    names = item_ids(units)
    bad = data.draw(st.sets(st.sampled_from(names[len(units[0].items) :]), max_size=4))
    deadly = data.draw(st.sets(st.sampled_from(sorted(bad)))) if bad else set()
    bench = make_bench(tmp_path_factory.mktemp("units"))
    bench.worker.failing = frozenset(bad - deadly)
    pool = FakeActorPool(
        bench.worker, data.draw(st.integers(0, 2**32)), data.draw(st.integers(1, 3)), deadly=frozenset(deadly)
    )
    bench.run(units, pool)
    kept, quarantined = bench.result(units)
    assert kept == [name for name in names if name not in bad]
    assert sorted(quarantined) == sorted(bad)
    assert bench.done == len(names)
    rows = bench.files.read(units)[1]
    assert {row.candidate_id: row.error for row in rows} == {
        name: "ActorDied" if name in deadly else "ValueError" for name in bad
    }
    assert {row.attempts for row in rows} <= {MAX_ATTEMPTS}


def test_a_death_is_attributed_to_the_running_unit_and_not_to_others_of_its_actor(bench: Bench) -> None:
    units = fake_units(6, 1)
    pool = FakeActorPool(bench.worker, seed=3, num_actors=1, deadly=frozenset({"i0002"}))
    bench.run(units, pool)
    assert bench.result(units) == ([name for name in item_ids(units) if name != "i0002"], ["i0002"])
    assert pool.num_deaths == MAX_ATTEMPTS
    assert {event["unit"] for event in bench.events if event["event"] == "unit_failed"} == {units[2].name}


def test_a_unit_whose_actor_died_after_its_commit_is_done(bench: Bench) -> None:
    """The receipt was lost with the actor; the file exists, and that decides."""
    units = fake_units(3, 2)
    bench.worker.quarantined = frozenset({"i0001"})

    class LosesReceipts(InProcessPool[FakeItem]):
        num_lost = 0

        def next_done(self) -> UnitOutcome:
            outcome = super().next_done()
            self.num_lost += 1
            if self.num_lost <= 2:
                is_oldest = self.num_lost == 1
                failure = Failure("ActorDied", "gone", is_death=True) if is_oldest else None
                return UnitOutcome(outcome.unit, failure=failure)
            return outcome

    runner = bench.run(units, LosesReceipts(bench.worker))
    assert bench.result(units) == ([name for name in item_ids(units) if name != "i0001"], ["i0001"])
    assert set(bench.worker.num_runs.values()) == {1}
    assert len(runner.quarantined) == 1
    assert not [event for event in bench.events if event["event"] == "unit_failed"]


def test_a_failing_item_in_the_first_unit_does_not_open_the_circuit(bench: Bench) -> None:
    """In one process the first unit fails before anything has succeeded, and so do its halves and quarters."""
    units = fake_units(2, 32)
    bench.worker.failing = frozenset({"i0000"})
    bench.run(units)
    assert bench.result(units)[1] == ["i0000"]


def test_two_failing_items_of_the_only_unit_do_not_open_the_circuit(bench: Bench) -> None:
    units = fake_units(1, 32)
    bench.worker.failing = frozenset({"i0000", "i0031"})
    bench.run(units)
    assert bench.result(units)[1] == ["i0000", "i0031"]


@pytest.mark.parametrize(("num_units", "size"), [(10, 4), (1, 32), (20, 1)])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_circuit_opens_early_if_all_units_fail_with_the_same_error(
    bench: Bench, num_units: int, size: int, seed: int | None
) -> None:
    units = fake_units(num_units, size)
    bench.worker.failing = frozenset(item_ids(units))
    pool = None if seed is None else FakeActorPool(bench.worker, seed)
    with pytest.raises(CircuitOpen, match="every unit failed with ValueError: cannot make i0") as caught:
        bench.run(units, pool)
    assert caught.value.exit_code == 1 and "resume" in caught.value.fix
    assert len([event for event in bench.events if event["event"] == "unit_failed"]) < 5 * MAX_SAME_ERRORS


def test_equal_errors_after_a_success_do_not_open_the_circuit(bench: Bench) -> None:
    units = fake_units(12, 2)
    bench.worker.failing = frozenset(item_ids(units)[2:12])
    bench.run(units)
    assert len(bench.result(units)[1]) == 10


def test_too_many_quarantined_items_open_the_circuit(bench: Bench) -> None:
    units = fake_units(5, 4)
    bench.worker.failing = frozenset({"i0004", "i0008", "i0012"})
    with pytest.raises(
        CircuitOpen, match="3 candidates are quarantined, 2 were allowed; the last in stage stage: ValueError"
    ):
        bench.run(units, max_quarantined=2)


def test_items_quarantined_by_a_worker_count_like_those_of_the_runner(bench: Bench) -> None:
    units = fake_units(5, 4)
    bench.worker.quarantined = frozenset({"i0000", "i0001", "i0019"})
    assert len(bench.run(units, max_quarantined=3).quarantined) == 3
    assert bench.result(units)[1] == ["i0000", "i0001", "i0019"]
    assert [e["candidate_id"] for e in bench.events if e["event"] == "quarantined"] == ["i0000", "i0001", "i0019"]


def test_items_quarantined_by_an_earlier_execution_count(bench: Bench) -> None:
    """A circuit that opened stays open for a second execution, even if the unit that opened it was the last."""
    units = fake_units(2, 4)
    bench.worker.quarantined = frozenset(item_ids(units))
    with pytest.raises(CircuitOpen):
        bench.run(units, max_quarantined=5)
    assert all(bench.files.exists(unit) for unit in units)
    lost = bench.files.quarantined(units)
    runner = UnitRunner(InProcessPool(bench.worker), bench.files, EventLog(bench.folder / "e"), bench.advance, 5, lost)
    with pytest.raises(CircuitOpen, match="8 candidates are quarantined"):
        runner.run([])


@pytest.mark.parametrize("error", [ConfigError("a", "b", "c"), StorageError("disk", "x", "y")])
def test_fatal_errors_are_raised_unchanged(bench: Bench, error: AvprefError) -> None:
    bench.worker.fatal = error
    with pytest.raises(type(error)) as caught:
        bench.run(fake_units(3, 3))
    assert caught.value is error
    assert sum(bench.worker.num_runs.values()) == 1


def test_a_media_error_belongs_to_one_clip(bench: Bench) -> None:
    units = fake_units(2, 2)
    bench.run(units[:1])
    bench.worker.fatal = MediaError("torn", "a clip")
    bench.run(units)
    assert bench.result(units) == (item_ids(units[:1]), item_ids(units[1:]))


@pytest.mark.parametrize("num_events", range(1, 24))
def test_a_crash_at_any_event_of_a_bisect_costs_nothing_that_was_finished(bench: Bench, num_events: int) -> None:
    """The driver dies after any number of outcomes; a second driver finishes, with the same rows and the same quarantine."""

    class Crash(Exception):
        pass

    class CrashingPool(InProcessPool[FakeItem]):
        events_left = num_events

        def next_done(self) -> UnitOutcome:
            if not self.events_left:
                raise Crash
            self.events_left -= 1
            return super().next_done()

    units, bad = fake_units(2, 8), frozenset({"i0008", "i0013"})
    bench.worker.failing = bad
    crashed = False
    try:
        bench.run(units, CrashingPool(bench.worker))
    except Crash:
        crashed = True
    finished = {path: path.stat() for path in (bench.folder / "units").rglob("*.parquet")}
    bench.run(units)
    assert bench.result(units) == ([name for name in item_ids(units) if name not in bad], sorted(bad))
    for path, before in finished.items():
        after = path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert crashed or num_events > 15


def test_quarantined_items_in_halves_of_an_earlier_execution_count(bench: Bench) -> None:
    units = fake_units(2, 4)
    whole = units[1]
    piece = replace(whole, items=whole.items[:2])
    bench.files.commit(piece, [FakeRow("i0004")], [QuarantineRow("i0005", "stage", "ValueError", "bad", 2)])
    bench.worker.failing = frozenset({"i0005", "i0006"})
    runner = bench.run(units)
    assert [row.candidate_id for row in runner.quarantined] == ["i0005", "i0006"]
    assert bench.result(units) == (["i0000", "i0001", "i0002", "i0003", "i0004", "i0007"], ["i0005", "i0006"])
