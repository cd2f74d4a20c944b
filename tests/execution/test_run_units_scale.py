"""Two thousand candidates through the real stages: task runs, files, log and rows are as planned, first and again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.execution import run_units as stage_module
from avpref.execution.fakes import FakeItem, FakeRow, FakeWorker
from avpref.execution.plan import grouped, plan_stage
from avpref.execution.run_units import run_stage
from avpref.execution.stage_observer import NoObserver, ShardDone
from avpref.observability.run_status import publishing
from avpref.storage.event_log import read_events
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.score_files import ScoreFiles

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
NUM_PROMPTS, NUM_CANDIDATES, UNIT, SHARD, NUM_SCORERS = 400, 5, 64, 64, 3


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    given = [f"run.shard_prompts={SHARD}", f"run.unit_candidates={UNIT}"]
    return create(tmp_path, load_config(TINY, given).settings)


class RecordingObserver(NoObserver):
    """Records the groups of shards and the finished shards of every pass."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, int, int]] = []
        self.shards: list[ShardDone] = []

    def shards_running(self, stage: str, first: int, last: int) -> AbstractContextManager[None]:
        self.groups.append((stage, first, last))
        return nullcontext()

    def stage_finished(self, stage: str, shards: Sequence[ShardDone]) -> None:
        self.shards += shards


def test_task_runs_files_and_events_follow_from_the_plan(folder: RunFolder) -> None:
    observer = RecordingObserver()
    names = [f"c{prompt:04d}-{index}" for prompt in range(NUM_PROMPTS) for index in range(NUM_CANDIDATES)]
    items = [FakeItem(name) for name in names]
    plan = plan_stage(
        "score", "candidates", "f", grouped(items, [name.split("-")[0] for name in names]), folder.settings.run
    )
    fingerprints = tuple(f"scorer{number}" for number in range(NUM_SCORERS))
    files = ScoreFiles(folder.units(tables.SKIPPED), fingerprints)
    worker = FakeWorker(files)
    num_shards = math.ceil(NUM_PROMPTS / SHARD)
    whole, rest = divmod(NUM_PROMPTS, SHARD)
    sizes = [SHARD * NUM_CANDIDATES] * whole + ([rest * NUM_CANDIDATES] if rest else [])
    num_units = sum(math.ceil(size / UNIT) for size in sizes)
    for _ in range(2):
        with publishing(folder):
            units = run_stage(folder, plan, files, lambda: worker, observer=observer).units
        assert [item.item_id for unit in units for item in unit.items] == names
    assert observer.groups == 2 * [("score", shard, shard) for shard in range(num_shards)]
    assert sum(shard.items for shard in observer.shards) == 2 * len(names)
    assert len(worker.units) == num_units == len(units)
    assert sum(1 for _ in (folder.root / "units").rglob("*.parquet")) == num_units * NUM_SCORERS
    kinds = Counter(event["event"].startswith("unit_") for event, _ in read_events(folder.events.path))
    assert kinds[True] == 2 * num_units and kinds[False] <= 8  # as many for two candidates as for two thousand
    lost = folder.tables.seal_units(
        folder.units(tables.SKIPPED), [part for unit in units for part in files.parts(unit)]
    )
    assert (lost, folder.tables.num_rows(tables.SKIPPED)) == ([], len(names) * NUM_SCORERS)


@pytest.mark.parametrize("rows_per_group", [1, 7, 64, 10_000])
def test_sealing_in_pieces_gives_the_bytes_of_the_whole(monkeypatch: pytest.MonkeyPatch, rows_per_group: int) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", rows_per_group)
    rows = [FakeRow(f"p{number}", "r" * (number % 5)) for number in range(100)]
    whole = tables.to_arrow(tables.SKIPPED, rows, "f")
    for size in (1, 3, 33, 100):
        pieces = [tables.to_arrow(tables.SKIPPED, rows[start : start + size], "f") for start in range(0, 100, size)]
        assert tables.bytes_of(whole.schema, pieces) == (tables.to_bytes(whole), 100)


def test_sealing_nothing_gives_an_empty_table_that_can_be_read(tmp_path: Path) -> None:
    empty = tables.to_arrow(tables.SKIPPED, [])
    data, rows = tables.bytes_of(empty.schema, [])
    (tmp_path / "t.parquet").write_bytes(data)
    assert rows == 0 and data == tables.to_bytes(empty)
    assert tables.read(tmp_path / "t.parquet", tables.SKIPPED).num_rows == 0
    with open(tmp_path / "t.parquet", "rb") as stream:
        assert list(tables.batches(stream, "t.parquet", tables.SKIPPED)) == []


@pytest.mark.parametrize(
    ("num_shards", "limit", "wanted"), [(0, 4, []), (3, 4, [(0, 0), (1, 1), (2, 2)]), (9, 4, [(0, 2), (3, 5), (6, 8)])]
)
def test_shards_beyond_a_limit_share_task_runs(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, num_shards: int, limit: int, wanted: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(stage_module, "MAX_TASKS", limit)
    observer = RecordingObserver()
    run = folder.settings.run.model_copy(update={"shard_prompts": 2})
    items = [FakeItem(f"c{number}") for number in range(2 * num_shards)]
    plan = plan_stage("score", "candidates", "f", [[item] for item in items], run)
    files = ScoreFiles(folder.units(tables.SKIPPED), ("scorer",))
    with publishing(folder):
        run_stage(folder, plan, files, lambda: FakeWorker(files), observer=observer)
    assert observer.groups == [("score", first, last) for first, last in wanted]
