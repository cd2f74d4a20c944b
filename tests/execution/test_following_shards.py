"""Workers begin the units of the next shard while the last ones of a shard run; every count stays with its shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.execution import run_units as stage_module
from avpref.execution.fakes import FakeActorPool, FakeItem, FakeWorker, fake_units, item_ids
from avpref.execution.plan import plan_stage
from avpref.execution.retry import UnitRunner
from avpref.execution.run_units import run_stage
from avpref.execution.stage_observer import NoObserver, ShardDone
from avpref.observability.run_status import publishing
from avpref.storage.event_log import EventLog
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
FAILING = ("i0000", "i0005", "i0006", "i0017")
NUM_ITEMS, SHARD = 20, 6


class RecordingPool(FakeActorPool):
    """Two actors with two units in flight each. Records the units that were submitted."""

    def __init__(self, worker: FakeWorker, seed: int) -> None:
        super().__init__(worker, seed)
        self.submitted: list[str] = []

    def submit(self, unit: Unit[FakeItem]) -> None:
        self.submitted.append(unit.name)
        super().submit(unit)


@pytest.mark.parametrize("seed", range(4))
def test_units_that_follow_are_begun_early_and_run_once(tmp_path: Path, seed: int) -> None:
    files = UnitFiles(LocalFiles(tmp_path / "units"), tables.SKIPPED)
    worker, units = FakeWorker(files), fake_units(9, 2)
    pool = RecordingPool(worker, seed)
    runner = UnitRunner(pool, files, EventLog(tmp_path / "events.jsonl"), lambda count: None, 1)
    runner.run(units[:5], units[5:])
    assert all(files.exists(unit) for unit in units[:5])
    assert 5 < len(pool.submitted) <= 5 + pool.capacity
    runner.run(units[5:])
    assert sorted(pool.submitted) == sorted(unit.name for unit in units)
    assert set(worker.num_runs.values()) == {1} and len(worker.num_runs) == len(item_ids(units))


class ShardRecorder(NoObserver):
    """Records the finished shards."""

    def __init__(self) -> None:
        self.shards: list[ShardDone] = []

    def stage_finished(self, stage: str, shards: Sequence[ShardDone]) -> None:
        self.shards += shards


@pytest.mark.parametrize("seed", range(4))
def test_counts_of_shards_do_not_depend_on_the_order_in_which_units_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    sizes = [f"run.shard_prompts={SHARD}", "run.unit_candidates=2", "run.max_quarantined_share=1.0"]
    folder: RunFolder = create(tmp_path, load_config(TINY, sizes, environment={}).settings)
    files = folder.units(tables.SKIPPED)
    worker = FakeWorker(files, failing=frozenset(FAILING[:2]), quarantined=frozenset(FAILING[2:]))

    @contextmanager
    def opened(*arguments: object) -> Iterator[RecordingPool]:
        yield RecordingPool(worker, seed)

    monkeypatch.setattr(stage_module, "open_pool", opened)
    items = [[FakeItem(f"i{number:04d}")] for number in range(NUM_ITEMS)]
    plan = plan_stage("score", "candidates", "f", items, folder.settings.run)
    observer = ShardRecorder()
    with publishing(folder):
        finished = run_stage(folder, plan, files, lambda: worker, observer=observer)
    assert finished.counts.quarantined == len(FAILING)
    lost = [sum(int(name[1:]) // SHARD == shard for name in FAILING) for shard in range(4)]
    assert [shard.quarantined for shard in observer.shards] == lost
    assert [shard.rows for shard in observer.shards] == [
        size - number for size, number in zip((6, 6, 6, 2), lost, strict=True)
    ]
    kept, quarantined = files.read(finished.units)
    assert kept["prompt_id"].to_pylist() == [item.item_id for (item,) in items if item.item_id not in FAILING]
    assert sorted(row.candidate_id for row in quarantined) == sorted(FAILING)
