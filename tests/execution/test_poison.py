"""k failing candidates among thousands cost exactly k rows, whether they raise an error, hang, or kill their worker's process."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avpref.config.executor_settings import RayExecutor
from avpref.datasets import tables
from avpref.execution.contract import Pool
from avpref.execution.fakes import FakeItem, FakeWorker, Harm
from avpref.execution.pool import InProcessPool, open_pool
from avpref.execution.retry import MAX_ATTEMPTS, UnitRunner
from avpref.flows.run import Run
from avpref.identity import derive_seed
from avpref.storage.event_log import EventLog
from avpref.storage.local_files import LocalFiles
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


@dataclass
class Trial:
    """A stage of ``num`` items in units of ``size``; ``harms`` are given to items drawn from ``seed``."""

    folder: Path
    num: int
    size: int
    harms: Sequence[Harm]
    seed: int = 0

    def __post_init__(self) -> None:
        self.files = UnitFiles(LocalFiles(self.folder / "units"), tables.SKIPPED)
        generator = np.random.Generator(np.random.PCG64(derive_seed("poison", self.seed)))
        indices = generator.choice(self.num, len(self.harms), replace=False).tolist()
        harm = dict(zip(indices, self.harms, strict=True))
        items = [FakeItem(f"i{ordinal:05d}", harm.get(ordinal, Harm.NONE)) for ordinal in range(self.num)]
        starts = range(0, self.num, self.size)
        self.units = [Unit("stage", 0, "f", tuple(items[start : start + self.size])) for start in starts]
        self.failing = {items[index].item_id: items[index].harm for index in indices}
        self.worker = FakeWorker(self.files, starts=self.folder / "notes")

    def run(self, pool: Pool[FakeItem]) -> None:
        events = EventLog(self.folder / "events.jsonl")
        UnitRunner(pool, self.files, events, lambda count: None, len(self.harms)).run(self.units)

    def check(self, errors: dict[Harm, str]) -> None:
        """Every other item has a row, in order; every failing item is quarantined once, with the error of its harm."""
        rows, quarantined = self.files.read(self.units)
        names = [item.item_id for unit in self.units for item in unit.items]
        assert rows["prompt_id"].to_pylist() == [name for name in names if name not in self.failing]
        assert sorted(row.candidate_id for row in quarantined) == sorted(self.failing)
        assert {row.candidate_id: row.error for row in quarantined} == {
            name: errors[harm] for name, harm in self.failing.items()
        }

    @property
    def max_deaths(self) -> int:
        """Attempts at every size from a whole unit down to the single item, for every failing item."""
        return len(self.harms) * MAX_ATTEMPTS * (1 + math.ceil(math.log2(self.size)))


@pytest.mark.parametrize("seed", range(3))
def test_items_that_raise_cost_only_their_own_rows(tmp_path: Path, seed: int) -> None:
    trial = Trial(tmp_path, 2400, 32, [Harm.RAISE] * 9, seed)
    trial.run(InProcessPool(trial.worker))
    trial.check({Harm.RAISE: "ValueError"})


# on real actors


def on_actors(trial: Trial, **settings: float) -> int:
    """Run on two actors; returns the number of processes that were started."""
    executor = RayExecutor(num_actors=2, **settings)  # type: ignore[arg-type]
    with open_pool(executor, trial.worker, trial.files) as pool:
        trial.run(pool)
    return len(list((trial.folder / "notes").glob("actor-*")))


ERRORS = {Harm.RAISE: "ValueError", Harm.KILL: "ActorDied", Harm.HANG: "TimedOut"}


@pytest.mark.usefixtures("ray_cluster")
def test_an_item_that_kills_its_worker_costs_one_row(tmp_path: Path) -> None:
    trial = Trial(tmp_path, 20, 2, [Harm.KILL, Harm.RAISE])
    assert 2 < on_actors(trial) <= 2 + trial.max_deaths / 2
    trial.check(ERRORS)


@pytest.mark.usefixtures("ray_cluster")
def test_a_unit_that_hangs_is_stopped_and_its_hanging_item_is_quarantined(tmp_path: Path) -> None:
    trial = Trial(tmp_path, 12, 2, [Harm.HANG])
    on_actors(trial, unit_timeout_s=2.0)
    trial.check(ERRORS)
    assert "executor.unit_timeout_s" in trial.files.quarantined(trial.units)[0].message


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("seed", range(2))
def test_items_that_kill_or_hang_or_raise_cost_only_their_own_rows(tmp_path: Path, seed: int) -> None:
    trial = Trial(tmp_path, 512, 16, [*3 * [Harm.KILL], Harm.HANG, *2 * [Harm.RAISE]], seed)
    processes = on_actors(trial, unit_timeout_s=5.0)
    trial.check(ERRORS)
    assert processes <= 2 + trial.max_deaths * 4 // 6  # those that kill or hang


@pytest.mark.usefixtures("ray_cluster")
def test_what_travels_to_and_from_actors_is_small(ray_cluster: int, tiny_run: object, tmp_path: Path) -> None:
    """Units, workers' descriptions and answers of every stage of a run: names, ids and settings, never a clip."""
    from ray import cloudpickle

    from avpref.execution import run_units as stage_module
    from avpref.execution.contract import UnitOutcome
    from avpref.execution.pool import InProcessPool
    from avpref.flows.run_stages import STAGES
    from avpref.storage.run_folder import RunFolder, create

    assert isinstance(tiny_run, RunFolder)
    sizes: Counter[str] = Counter()

    class SizingPool(InProcessPool[Any]):
        def submit(self, unit: Unit[Any]) -> None:
            sizes[unit.stage] = max(sizes[unit.stage], len(cloudpickle.dumps(unit)) // len(unit.items))
            super().submit(unit)

        def next_done(self) -> UnitOutcome:
            outcome = super().next_done()
            assert len(cloudpickle.dumps(outcome.receipt)) < 1000
            return outcome

    @contextmanager
    def open_sizing_pool(settings: object, spec: object, files: object) -> Iterator[SizingPool]:
        assert len(cloudpickle.dumps(spec)) < 20_000
        yield SizingPool(spec)  # type: ignore[arg-type]

    folder = create(tmp_path, tiny_run.settings)
    with pytest.MonkeyPatch.context() as patch, folder.locked():
        patch.setattr(stage_module, "open_pool", open_sizing_pool)
        for stage in STAGES:
            stage.fn(Run.of(folder))
    assert {"generate", "score", "audit", "encode", "evaluate"} <= set(sizes)
    clip = min(path.stat().st_size for path in folder.root.glob("clips/*/*.mp4"))
    assert max(sizes.values()) < min(3000, clip)
