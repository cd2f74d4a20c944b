"""The failure ladder, driven through a pool that fails as scripted."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import AvprefError, CircuitOpen, ConfigError, MediaError, StorageError
from avpref.execution.contract import Failure, Outcome, Receipt
from avpref.execution.pool import InProcessPool
from avpref.execution.retry import ALIKE_BEFORE_OPEN, ATTEMPTS, Ladder
from avpref.storage.event_log import EventLog
from avpref.storage.local_files import LocalFiles
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

ROWS = tables.SKIPPED
"""Any small table: prompt_id, reason, detail."""


@dataclass(frozen=True)
class Item:
    item_id: str


@dataclass(frozen=True)
class Row:
    prompt_id: str
    reason: str = "made"
    detail: str = ""


@dataclass
class Script:
    """What happens to items: ``poison`` raises, ``deadly`` kills the actor, ``flaky`` raises that often, then works."""

    poison: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()
    flaky: Counter[str] = field(default_factory=Counter)
    lost: frozenset[str] = frozenset()
    fatal: Exception | None = None
    runs: Counter[str] = field(default_factory=Counter)

    def build(self) -> Script:
        return self

    def check(self, unit: Unit) -> None:
        for item in unit.items:
            self.runs[item.item_id] += 1
            if self.fatal:
                raise self.fatal
            if item.item_id in self.poison:
                raise ValueError(f"cannot make {item.item_id}")
            if self.flaky[item.item_id] > 0:
                self.flaky[item.item_id] -= 1
                raise TimeoutError("try again")


@dataclass
class CommittingScript(Script):
    files: UnitFiles | None = None

    def run(self, unit: Unit) -> Receipt:
        assert self.files is not None
        self.check(unit)
        kept = [item for item in unit.items if item.item_id not in self.lost]
        gone = [
            QuarantineRow(item.item_id, unit.stage, "MediaError", "no sound", 1)
            for item in unit.items
            if item not in kept
        ]
        self.files.commit(unit, [Row(item.item_id) for item in kept], gone)
        return Receipt(len(kept), len(gone), 0.0)


class FakeActors:
    """Two units in flight on each of ``slots`` actors, ended in a random order; a deadly unit takes its neighbours along."""

    def __init__(self, script: CommittingScript, seed: int, slots: int = 2) -> None:
        self.script, self.capacity = script, 2 * slots
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._queues: list[deque[Unit]] = [deque() for _ in range(slots)]
        self._ended: deque[Outcome] = deque()
        self.deaths = 0

    def submit(self, unit: Unit) -> None:
        min(self._queues, key=len).append(unit)
        assert sum(map(len, self._queues)) + len(self._ended) <= self.capacity

    def next_done(self) -> Outcome:
        if self._ended:
            return self._ended.popleft()
        queue = self._generator.choice([index for index, each in enumerate(self._queues) if each])
        units = self._queues[queue]
        unit = units.popleft()
        if any(item.item_id in self.script.deadly for item in unit.items):
            self.deaths += 1
            self._ended.extend(Outcome(each) for each in units)
            units.clear()
            return Outcome(unit, failure=Failure("ActorDied", "gone", is_death=True))
        outcome = InProcessPool(self.script)
        outcome.submit(unit)
        return outcome.next_done()


@dataclass
class Bench:
    folder: Path
    script: CommittingScript
    done: int = 0

    @property
    def files(self) -> UnitFiles:
        return UnitFiles(LocalFiles(self.folder / "units"), ROWS)

    @property
    def events(self) -> list[dict[str, object]]:
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def advance(self, count: int) -> None:
        self.done += count

    def run(self, units: Sequence[Unit], pool: object | None = None, allowed: int = 1000) -> Ladder:
        self.script.files = self.files
        log = EventLog(self.folder / "events.jsonl")
        pool = pool or InProcessPool(self.script)
        ladder = Ladder(pool, self.files, log, self.advance, allowed)  # type: ignore[arg-type]
        ladder.run(units)
        return ladder

    def result(self, units: Sequence[Unit]) -> tuple[list[str], list[str]]:
        """Ids of the rows and of the quarantine, in the order of the plan's files."""
        rows, quarantined = self.files.read(units)
        return rows["prompt_id"].to_pylist(), [row.candidate_id for row in quarantined]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, CommittingScript())


def plan(num_units: int, size: int) -> list[Unit]:
    names = [f"i{ordinal:04d}" for ordinal in range(num_units * size)]
    items = [tuple(Item(name) for name in names[start : start + size]) for start in range(0, len(names), size)]
    return [Unit("stage", 0, "f", each) for each in items]


def ids(units: Sequence[Unit]) -> list[str]:
    return [item.item_id for unit in units for item in unit.items]


def test_units_that_succeed_run_once_each_and_in_order(bench: Bench) -> None:
    units = plan(4, 3)
    bench.run(units)
    assert bench.result(units) == (ids(units), [])
    assert set(bench.script.runs.values()) == {1}
    assert bench.done == 12


def test_what_is_committed_is_not_run_again(bench: Bench) -> None:
    units = plan(3, 2)
    bench.run(units[:2])
    bench.script.runs.clear()
    bench.run(units)
    assert sorted(bench.script.runs) == ids(units[2:])


def test_a_transient_failure_is_tried_again_and_loses_nothing(bench: Bench) -> None:
    units = plan(3, 4)
    bench.script.flaky = Counter({"i0001": ATTEMPTS - 1, "i0006": ATTEMPTS - 1})
    ladder = bench.run(units)
    assert bench.result(units) == (ids(units), [])
    assert ladder.quarantined == []
    assert [event["error"] for event in bench.events if event["event"] == "unit_failed"] == ["TimeoutError"] * 2


@settings(max_examples=30)
@given(data=st.data())
def test_exactly_the_poisoned_items_are_quarantined_whatever_the_order_of_events(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any poison that raises or kills, any sizes, any interleaving: all others are there, in the order of the plan."""
    units = plan(data.draw(st.integers(3, 6)), data.draw(st.integers(1, 9)))
    names = ids(units)
    bad = data.draw(st.sets(st.sampled_from(names[len(units[0].items) :]), max_size=4))
    deadly = data.draw(st.sets(st.sampled_from(sorted(bad)))) if bad else set()
    bench = Bench(
        tmp_path_factory.mktemp("ladder"), CommittingScript(poison=frozenset(bad - deadly), deadly=frozenset(deadly))
    )
    pool = FakeActors(bench.script, data.draw(st.integers(0, 2**32)), data.draw(st.integers(1, 3)))
    bench.run(units, pool)
    kept, quarantined = bench.result(units)
    assert kept == [name for name in names if name not in bad]
    assert sorted(quarantined) == sorted(bad)
    assert bench.done == len(names)
    rows = bench.files.read(units)[1]
    assert {row.candidate_id: row.error for row in rows} == {
        name: "ActorDied" if name in deadly else "ValueError" for name in bad
    }
    assert {row.attempts for row in rows} <= {ATTEMPTS}


def test_neighbours_of_a_killer_are_neither_blamed_nor_counted_as_failing(bench: Bench) -> None:
    units = plan(6, 1)
    bench.script.deadly = frozenset({"i0002"})
    pool = FakeActors(bench.script, seed=3, slots=1)
    bench.run(units, pool)
    assert bench.result(units) == ([name for name in ids(units) if name != "i0002"], ["i0002"])
    assert pool.deaths == ATTEMPTS
    assert {event["unit"] for event in bench.events if event["event"] == "unit_failed"} == {units[2].name}


def test_a_unit_whose_actor_died_after_its_commit_is_done(bench: Bench) -> None:
    """The receipt was lost with the actor; the file was not, and it is the file that counts."""
    units = plan(3, 2)
    bench.script.files, bench.script.lost = bench.files, frozenset({"i0001"})

    class Forgetful(InProcessPool):
        forgotten = 0

        def next_done(self) -> Outcome:
            outcome = super().next_done()
            self.forgotten += 1
            if self.forgotten <= 2:
                is_blamed = self.forgotten == 1
                failure = Failure("ActorDied", "gone", is_death=True) if is_blamed else None
                return Outcome(outcome.unit, failure=failure)
            return outcome

    ladder = bench.run(units, Forgetful(bench.script))
    assert bench.result(units) == ([name for name in ids(units) if name != "i0001"], ["i0001"])
    assert set(bench.script.runs.values()) == {1}
    assert len(ladder.quarantined) == 1
    assert not [event for event in bench.events if event["event"] == "unit_failed"]


def test_one_poison_at_the_very_beginning_is_data_and_not_configuration(bench: Bench) -> None:
    """In one process the first unit fails before anything has succeeded, and so do its halves and quarters."""
    units = plan(2, 32)
    bench.script.poison = frozenset({"i0000"})
    bench.run(units)
    assert bench.result(units)[1] == ["i0000"]


def test_a_single_unit_with_two_poisons_far_apart_is_data_too(bench: Bench) -> None:
    units = plan(1, 32)
    bench.script.poison = frozenset({"i0000", "i0031"})
    bench.run(units)
    assert bench.result(units)[1] == ["i0000", "i0031"]


@pytest.mark.parametrize(("num_units", "size"), [(10, 4), (1, 32), (20, 1)])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_when_everything_fails_alike_the_circuit_opens_early(
    bench: Bench, num_units: int, size: int, seed: int | None
) -> None:
    units = plan(num_units, size)
    bench.script.poison = frozenset(ids(units))
    pool = None if seed is None else FakeActors(bench.script, seed)
    with pytest.raises(CircuitOpen, match="every unit failed with ValueError: cannot make i0") as caught:
        bench.run(units, pool)
    assert caught.value.exit_code == 1 and "resume" in caught.value.fix
    assert len([event for event in bench.events if event["event"] == "unit_failed"]) < 5 * ALIKE_BEFORE_OPEN


def test_failures_after_a_success_do_not_open_the_circuit_by_being_alike(bench: Bench) -> None:
    units = plan(12, 2)
    bench.script.poison = frozenset(ids(units)[2:12])
    bench.run(units)
    assert len(bench.result(units)[1]) == 10


def test_too_many_lost_items_open_the_circuit(bench: Bench) -> None:
    units = plan(5, 4)
    bench.script.poison = frozenset({"i0004", "i0008", "i0012"})
    with pytest.raises(
        CircuitOpen, match="3 candidates are quarantined, 2 were allowed; the last in stage stage: ValueError"
    ):
        bench.run(units, allowed=2)


def test_items_that_a_worker_gives_up_on_count_like_the_ladder_s_own(bench: Bench) -> None:
    units = plan(5, 4)
    bench.script.lost = frozenset({"i0000", "i0001", "i0019"})
    assert len(bench.run(units, allowed=3).quarantined) == 3
    assert bench.result(units)[1] == ["i0000", "i0001", "i0019"]
    assert [e["candidate_id"] for e in bench.events if e["event"] == "quarantined"] == ["i0000", "i0001", "i0019"]


def test_items_that_were_lost_before_count_when_the_stage_goes_on(bench: Bench) -> None:
    """A circuit that opened stays open for a second execution, even if the unit that opened it was the last."""
    units = plan(2, 4)
    bench.script.lost = frozenset(ids(units))
    with pytest.raises(CircuitOpen):
        bench.run(units, allowed=5)
    assert all(bench.files.exists(unit) for unit in units)
    lost = bench.files.quarantined(units)
    ladder = Ladder(InProcessPool(bench.script), bench.files, EventLog(bench.folder / "e"), bench.advance, 5, lost)
    with pytest.raises(CircuitOpen, match="8 candidates are quarantined"):
        ladder.run([])


@pytest.mark.parametrize("error", [ConfigError("a", "b", "c"), StorageError("disk", "x", "y")])
def test_errors_that_no_retry_can_mend_are_raised_as_they_were(bench: Bench, error: AvprefError) -> None:
    bench.script.fatal = error
    with pytest.raises(type(error)) as caught:
        bench.run(plan(3, 3))
    assert caught.value is error
    assert sum(bench.script.runs.values()) == 1


def test_a_media_error_belongs_to_one_clip(bench: Bench) -> None:
    units, clean = plan(2, 2), CommittingScript()
    bench.run(units[:1])
    bench.script.fatal = MediaError("torn", "a clip")
    bench.run(units)
    assert bench.result(units) == (ids(units[:1]), ids(units[1:]))
    assert clean.fatal is None


@pytest.mark.parametrize("num_events", range(1, 24))
def test_a_crash_at_any_event_of_a_bisect_costs_nothing_that_was_finished(bench: Bench, num_events: int) -> None:
    """The driver dies after any number of outcomes; a second driver finishes, with the same rows and the same quarantine."""

    class Crash(Exception):
        pass

    class CrashingPool(InProcessPool):
        left = num_events

        def next_done(self) -> Outcome:
            if not self.left:
                raise Crash
            self.left -= 1
            return super().next_done()

    units, bad = plan(2, 8), frozenset({"i0008", "i0013"})
    bench.script.poison, bench.script.files = bad, bench.files
    crashed = False
    try:
        bench.run(units, CrashingPool(bench.script))
    except Crash:
        crashed = True
    finished = {path: path.stat() for path in (bench.folder / "units").rglob("*.parquet")}
    bench.run(units)
    assert bench.result(units) == ([name for name in ids(units) if name not in bad], sorted(bad))
    for path, before in finished.items():
        after = path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert crashed or num_events > 15


def test_pieces_of_an_earlier_bisect_count_what_they_lost(bench: Bench) -> None:
    units = plan(2, 4)
    whole = units[1]
    bench.script.files = bench.files
    piece = replace(whole, items=whole.items[:2])
    bench.files.commit(piece, [Row("i0004")], [QuarantineRow("i0005", "stage", "ValueError", "bad", 2)])
    bench.script.poison = frozenset({"i0005", "i0006"})
    ladder = bench.run(units)
    assert [row.candidate_id for row in ladder.quarantined] == ["i0005", "i0006"]
    assert bench.result(units) == (["i0000", "i0001", "i0002", "i0003", "i0004", "i0007"], ["i0005", "i0006"])
