"""k poisoned candidates among thousands lose exactly k rows, whether they raise, hang or kill the process that makes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from avpref.config.executor_settings import RayExecutor
from avpref.datasets import tables
from avpref.execution.contract import Pool, WorkerSpec
from avpref.execution.fakes import FakeItem, FakeWorker, Harm
from avpref.execution.pool import InProcessPool, open_pool
from avpref.execution.retry import ATTEMPTS, Ladder
from avpref.flows.run import Run
from avpref.identity import derive_seed
from avpref.storage.event_log import EventLog
from avpref.storage.local_files import LocalFiles
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


@dataclass
class Trial:
    """A stage of ``num`` items in units of ``size``; ``harms`` are put at places drawn from ``seed``."""

    folder: Path
    num: int
    size: int
    harms: Sequence[Harm]
    seed: int = 0

    def __post_init__(self) -> None:
        self.files = UnitFiles(LocalFiles(self.folder / "units"), tables.SKIPPED)
        generator = np.random.Generator(np.random.PCG64(derive_seed("poison", self.seed)))
        places = generator.choice(self.num, len(self.harms), replace=False).tolist()
        harm = dict(zip(places, self.harms, strict=True))
        items = [FakeItem(f"i{ordinal:05d}", harm.get(ordinal, Harm.NONE)) for ordinal in range(self.num)]
        starts = range(0, self.num, self.size)
        self.units = [Unit("stage", 0, "f", tuple(items[start : start + self.size])) for start in starts]
        self.poisoned = {items[place].item_id: items[place].harm for place in places}
        self.worker = FakeWorker(self.files, starts=self.folder / "notes")

    def run(self, pool: Pool) -> None:
        events = EventLog(self.folder / "events.jsonl")
        Ladder(pool, self.files, events, lambda count: None, len(self.harms)).run(self.units)

    def check(self, errors: dict[Harm, str]) -> None:
        """Every innocent has a row, in order; every poisoned one is quarantined, once, with the error of its harm."""
        rows, quarantined = self.files.read(self.units)
        whole = [item.item_id for unit in self.units for item in unit.items]
        assert rows["prompt_id"].to_pylist() == [name for name in whole if name not in self.poisoned]
        assert sorted(row.candidate_id for row in quarantined) == sorted(self.poisoned)
        assert {row.candidate_id: row.error for row in quarantined} == {
            name: errors[harm] for name, harm in self.poisoned.items()
        }

    @property
    def most_deaths(self) -> int:
        """Attempts at every size from a whole unit down to the single item, for every poison."""
        return len(self.harms) * ATTEMPTS * (1 + math.ceil(math.log2(self.size)))


@pytest.mark.parametrize("seed", range(3))
def test_poison_that_raises_costs_its_own_rows_among_thousands(tmp_path: Path, seed: int) -> None:
    trial = Trial(tmp_path, 2400, 32, [Harm.RAISE] * 9, seed)
    trial.run(InProcessPool(trial.worker))
    trial.check({Harm.RAISE: "ValueError"})


# on real actors


def on_actors(trial: Trial, **settings: float) -> int:
    """Run on two actors; how many processes there were."""
    executor = RayExecutor.model_validate({"num_actors": 2, **settings})
    with open_pool(executor, trial.worker, trial.files) as pool:
        trial.run(pool)
    return len(list((trial.folder / "notes").glob("actor-*")))


ERRORS = {Harm.RAISE: "ValueError", Harm.KILL: "ActorDied", Harm.HANG: "TimedOut"}


@pytest.mark.usefixtures("ray_cluster")
def test_one_poison_that_kills_costs_one_row(tmp_path: Path) -> None:
    trial = Trial(tmp_path, 40, 4, [Harm.KILL, Harm.RAISE])
    assert 2 < on_actors(trial) <= 2 + trial.most_deaths / 2
    trial.check(ERRORS)


@pytest.mark.usefixtures("ray_cluster")
def test_a_unit_that_hangs_is_stopped_and_its_culprit_found(tmp_path: Path) -> None:
    trial = Trial(tmp_path, 12, 2, [Harm.HANG])
    on_actors(trial, unit_timeout_s=2.0)
    trial.check(ERRORS)
    assert "executor.unit_timeout_s" in trial.files.quarantined(trial.units)[0].message


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("seed", range(2))
def test_poison_that_kills_or_hangs_or_raises_costs_its_own_rows_among_hundreds(tmp_path: Path, seed: int) -> None:
    trial = Trial(tmp_path, 512, 16, [*3 * [Harm.KILL], Harm.HANG, *2 * [Harm.RAISE]], seed)
    processes = on_actors(trial, unit_timeout_s=5.0)
    trial.check(ERRORS)
    assert processes <= 2 + trial.most_deaths * 4 // 6  # those that kill or hang


@pytest.mark.usefixtures("ray_cluster")
def test_what_travels_to_and_from_actors_is_small(ray_cluster: int, tiny_run: object, tmp_path: Path) -> None:
    """Units, workers' descriptions and answers of every stage of a run: names, ids and settings, never a clip."""
    from ray import cloudpickle

    from avpref.execution import run_units as stage_module
    from avpref.execution.contract import Outcome
    from avpref.execution.pool import InProcessPool
    from avpref.flows.run_stages import STAGES
    from avpref.storage.run_folder import RunFolder, create

    assert isinstance(tiny_run, RunFolder)
    sizes: Counter[str] = Counter()

    class Weighed(InProcessPool):
        def submit(self, unit: Unit) -> None:
            sizes[unit.stage] = max(sizes[unit.stage], len(cloudpickle.dumps(unit)) // len(unit.items))
            super().submit(unit)

        def next_done(self) -> Outcome:
            outcome = super().next_done()
            assert len(cloudpickle.dumps(outcome.receipt)) < 1000
            return outcome

    @stage_module.contextmanager
    def weighed(settings: object, spec: WorkerSpec, files: object) -> Iterator[Weighed]:
        assert len(cloudpickle.dumps(spec)) < 20_000
        yield Weighed(spec)

    folder = create(tmp_path, tiny_run.settings)
    with pytest.MonkeyPatch.context() as patch, folder.locked():
        patch.setattr(stage_module, "open_pool", weighed)
        for stage in STAGES:
            stage.fn(Run.of(folder))
    assert {"generate", "score", "audit", "encode", "evaluate"} <= set(sizes)
    clip = min(path.stat().st_size for path in folder.root.glob("clips/*/*.mp4"))
    assert max(sizes.values()) < min(3000, clip)
