"""Idle actors go from pool to pool while a command keeps them, and end with it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from avpref.config.executor_settings import PoolSettings, RayExecutor
from avpref.execution.contract import Receipt, UnitOutcome
from avpref.execution.fakes import FakeItem, fake_units
from avpref.execution.kept_actors import actors_kept, keep_actor, stop_kept_actors, take_actor
from avpref.execution.pool import open_pool
from avpref.storage.local_files import commit_once
from avpref.storage.unit import Unit

TWO = RayExecutor(num_actors=2)


@dataclass(frozen=True)
class Spec:
    folder: Path
    num_actors: int

    def build(self) -> Worker:
        record("built", self.folder)
        return Worker(self.folder, self.num_actors)


@dataclass(frozen=True)
class Worker:
    """Ends no unit before all actors run one: a pool that ends earlier stops the actors that were still starting."""

    folder: Path
    num_actors: int

    def run(self, unit: Unit[FakeItem]) -> Receipt:
        record("ran", self.folder)
        deadline = time.monotonic() + 60
        while len(processes_that("ran", self.folder)) < self.num_actors and time.monotonic() < deadline:
            time.sleep(0.02)
        return Receipt(len(unit.items), 0, 0.0)


def record(event: str, folder: Path) -> None:
    commit_once(folder / f"{event}-{os.getpid()}-{time.time_ns()}", b"")


def processes_that(event: str, folder: Path) -> set[int]:
    """The processes that recorded ``event``."""
    return {int(path.name.split("-")[1]) for path in folder.glob(f"{event}-*")}


@pytest.fixture(autouse=True)
def by_value(ray_cluster: int) -> Iterator[None]:
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def run_pool(folder: Path, settings: RayExecutor = TWO, count: int = 4) -> list[UnitOutcome]:
    with open_pool(settings, Spec(folder, settings.num_actors)) as pool:
        for unit in fake_units(num_units=count, size=1):
            pool.submit(unit)
        return [pool.next_done() for _ in range(count)]


def are_gone(processes: set[int]) -> bool:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(Path(f"/proc/{process}").exists() for process in processes)


def test_a_second_pool_builds_its_workers_in_the_processes_of_the_first(tmp_path: Path) -> None:
    pools = [tmp_path / "first", tmp_path / "second"]
    with actors_kept():
        outcomes = [outcome for folder in pools for outcome in run_pool(folder)]
        first, second = (processes_that("built", folder) for folder in pools)
        assert all(Path(f"/proc/{process}").exists() for process in first)
    assert all(outcome.receipt is not None for outcome in outcomes)
    assert len(first) == TWO.num_actors and second == first
    assert are_gone(first)


def test_a_smaller_pool_leaves_the_others_kept_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    with actors_kept():
        run_pool(tmp_path / "first")
        processes = processes_that("built", tmp_path / "first")
        for process in processes:
            os.kill(process, 9)
        assert are_gone(processes)
        (outcome,) = run_pool(tmp_path / "second", RayExecutor(num_actors=1), count=1)
    assert outcome.receipt is not None


class Actor:
    """What the keeper needs of an actor."""

    class release:
        @staticmethod
        def remote() -> None: ...


OF_SCORER = RayExecutor(pools={"sharp": PoolSettings()}).of_pool("sharp")


@pytest.mark.parametrize("settings", [RayExecutor(num_gpus_per_actor=0.5), RayExecutor(address="head:6379"), OF_SCORER])
def test_actors_with_gpus_of_a_cluster_and_of_a_scorer_are_not_kept(
    settings: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[object] = []
    monkeypatch.setattr("ray.kill", killed.append)
    actor = Actor()
    assert not keep_actor(actor, TWO)  # no command keeps actors
    with actors_kept():
        assert not keep_actor(actor, settings)
        assert keep_actor(actor, TWO)
        assert take_actor(settings) is None and killed == [actor]  # it would hold what this pool needs
        assert keep_actor(actor, TWO) and take_actor(TWO) is actor
        assert keep_actor(actor, TWO)
    assert killed == [actor, actor]
    stop_kept_actors()
    assert killed == [actor, actor]
