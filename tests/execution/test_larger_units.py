"""Light items make larger units; a stage whose units had other sizes continues, and repeats no item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.loading import load_config
from avpref.config.run_settings import RunSettings
from avpref.datasets import tables
from avpref.execution.contract import Receipt
from avpref.execution.fakes import FakeItem, FakeWorker
from avpref.execution.plan import LARGEST_GROWTH, NUM_UNITS, StagePlan, plan_stage, with_larger_units
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.observability.run_status import publishing
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.unit import Unit

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SIZE, SHARD = 2, 24


def planned(number: int, size: int = SIZE, shard: int = SHARD) -> StagePlan[FakeItem]:
    items = [[FakeItem(f"i{index:04d}")] for index in range(number)]
    return plan_stage("score", "candidates", "f", items, RunSettings(unit_candidates=size, shard_prompts=shard))


def light(item: FakeItem) -> float:
    return 0.01


@settings(max_examples=40, deadline=None)
@given(
    number=st.integers(0, 900),
    size=st.integers(1, 4),
    shard=st.integers(1, 40),
    weights=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.9, 2.0]), min_size=1, max_size=7),
)
def test_joined_units_keep_items_order_and_shards_and_are_light(
    number: int, size: int, shard: int, weights: list[float]
) -> None:
    plan = planned(number, size, shard)
    before = {unit.name for unit in plan.units}

    def weight(item: FakeItem) -> float:
        return weights[int(item.item_id[1:]) % len(weights)]

    larger = with_larger_units(plan, weight)
    assert [[item for unit in part.units for item in unit.items] for part in larger.shards] == [
        [item for unit in part.units for item in unit.items] for part in plan.shards
    ]
    assert larger.shards[-1:] == plan.shards[-1:]
    for unit in larger.units:
        assert len(unit.items) <= LARGEST_GROWTH * size
        assert unit.name in before or sum(map(weight, unit.items)) <= 1.0
    assert with_larger_units(plan, weight) == larger


def test_units_grow_with_the_plan_and_stay_where_items_are_heavy() -> None:
    assert with_larger_units(planned(SIZE * (2 * NUM_UNITS - 1)), light) == planned(SIZE * (2 * NUM_UNITS - 1))
    twice = with_larger_units(planned(SIZE * 2 * NUM_UNITS), light)
    assert {len(unit.items) for unit in twice.shards[0].units} == {2 * SIZE}
    most = with_larger_units(planned(SIZE * 9 * NUM_UNITS), light)
    assert {len(unit.items) for unit in most.shards[0].units} == {LARGEST_GROWTH * SIZE}
    assert {unit.name for unit in with_larger_units(planned(SIZE * 9 * NUM_UNITS), lambda item: 0.4).units} == {
        unit.name for unit in planned(SIZE * 9 * NUM_UNITS).units
    }


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create(tmp_path, load_config(TINY, (), environment={}).settings)


@pytest.mark.parametrize("done", [1.0, 0.6, 0.0])
def test_a_stage_that_was_begun_with_smaller_units_repeats_no_item(folder: RunFolder, done: float) -> None:
    small = planned(SIZE * 2 * NUM_UNITS)
    larger = with_larger_units(small, light)
    assert len(larger.units) < len(small.units)
    files = folder.units(tables.SKIPPED)
    reuse: Reuse[FakeItem] = Reuse(files, folder.files, lambda: (), "prompt_id")
    first, second = FakeWorker(files), FakeWorker(files)
    for unit in small.units[: round(done * len(small.units))]:
        first.run(unit)
    with publishing(folder):
        finished = run_stage(folder, larger, files, lambda: second, reuse)
    names = [item.item_id for unit in small.units for item in unit.items]
    assert sorted([*first.num_runs, *second.num_runs]) == names
    assert files.read(finished.units)[0]["prompt_id"].to_pylist() == names


def test_items_that_are_missing_from_reused_units_run_in_units_of_the_given_size(folder: RunFolder) -> None:
    plan = with_larger_units(planned(SIZE * 2 * NUM_UNITS), light)
    files = folder.units(tables.SKIPPED)
    reuse: Reuse[FakeItem] = Reuse(files, folder.files, lambda: (), "prompt_id")
    for unit in plan.units:
        FakeWorker(files).run(replace(unit, items=unit.items[:1]))  # another plan's units, with one item each
    sizes: list[int] = []

    class SizeRecorder(FakeWorker):
        def run(self, unit: Unit[FakeItem]) -> Receipt:
            sizes.append(len(unit.items))
            return super().run(unit)

    with publishing(folder):
        run_stage(folder, plan, files, lambda: SizeRecorder(files), reuse)
    assert sizes and max(sizes) <= SIZE
