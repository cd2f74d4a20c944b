"""Pools of workers: how units end in this process and on real Ray actors, some of which die."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.errors import ConfigError, InputError, MediaError, StorageError
from avpref.execution import ray_session as session
from avpref.execution.contract import Pool, Receipt, UnitOutcome, run_and_catch
from avpref.execution.fakes import FakeItem
from avpref.execution.pool import InProcessPool, open_pool
from avpref.storage.local_files import commit_once
from avpref.storage.unit import Item, Unit


class Odd(Exception):
    """An error that cannot travel between processes: it cannot be built from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


@dataclass(frozen=True)
class Spec:
    """Workers that write one file per item; an item's name says what happens to it."""

    folder: Path
    broken: bool = False

    def build(self) -> Worker:
        if self.broken:
            raise InputError("no weights", "weights", "fetch them")
        commit_once(self.folder / f"built-{os.getpid()}", b"")
        return Worker(self.folder)


@dataclass(frozen=True)
class Worker:
    folder: Path

    def run(self, unit: Unit[FakeItem]) -> Receipt:
        for item in unit.items:
            match item.item_id.split("-")[0]:
                case "exit":
                    os._exit(3)
                case "config":
                    raise ConfigError("wrong", "right", "edit")
                case "storage":
                    raise StorageError("full", "space", "df")
                case "media":
                    raise MediaError("torn", "whole", "restore")
                case "odd":
                    raise Odd(1, 2)
                case "silent":
                    raise ValueError
                case "threads":
                    commit_once(self.folder / item.item_id, os.environ["OMP_NUM_THREADS"].encode())
                    continue
            commit_once(self.folder / item.item_id, str(os.getpid()).encode())
        return Receipt(len(unit.items), 0, 0.0)


def units(*names: str) -> list[Unit[FakeItem]]:
    return [Unit("stage", 0, "f", tuple(FakeItem(each) for each in name.split())) for name in names]


def never(unit: Unit[Item]) -> bool:
    return False


def drain(
    pool: Pool[FakeItem], waiting: list[Unit[FakeItem]], is_done: Callable[[Unit[Item]], bool] = never
) -> list[UnitOutcome]:
    """Run ``waiting`` in the pool as the unit runner does, without second attempts.

    A failed unit for which ``is_done`` is true counts as neither failed nor to be run again.
    """
    ended, in_flight, waiting = [], 0, list(waiting)
    by_name = {unit.name: unit for unit in waiting}
    while waiting or in_flight:
        while waiting and in_flight < pool.capacity:
            pool.submit(waiting.pop(0))
            in_flight += 1
        outcome = pool.next_done()
        in_flight -= 1
        if outcome.receipt is None and is_done(outcome.unit):
            continue
        ended.append(outcome)
        if outcome.receipt is None and outcome.failure is None:
            waiting.append(by_name[outcome.unit.name])
    return ended


def test_a_unit_is_named_by_its_shard_and_items() -> None:
    first, second, same = units("a b", "b a", "a b")
    assert first.name == same.name != second.name
    assert first.name.startswith("00000-")


def test_the_in_process_pool_builds_once_and_runs_in_order(tmp_path: Path) -> None:
    with open_pool(InProcessExecutor(), Spec(tmp_path)) as pool:
        assert not list(tmp_path.iterdir())
        ended = drain(pool, units("a", "b c", "d"))
    assert [each.receipt.rows for each in ended if each.receipt] == [1, 2, 1]
    assert len(list(tmp_path.glob("built-*"))) == 1


@pytest.mark.parametrize(
    ("name", "error", "is_fatal"),
    [
        ("config", "ConfigError", True),
        ("storage", "StorageError", True),
        ("media", "MediaError", False),
        ("odd", "Odd", False),
        ("silent", "ValueError", False),
    ],
)
def test_an_exception_becomes_a_failure_with_class_message_and_whether_it_is_fatal(
    tmp_path: Path, name: str, error: str, is_fatal: bool
) -> None:
    outcome = run_and_catch(Worker(tmp_path), units(name)[0])
    assert outcome.receipt is None and outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.is_fatal) == (error, is_fatal)
    assert outcome.failure.message
    assert (outcome.failure.cause is not None) == is_fatal


def test_an_error_while_building_a_worker_in_process_is_raised_unchanged(tmp_path: Path) -> None:
    pool = InProcessPool(Spec(tmp_path, broken=True))
    pool.submit(units("a")[0])
    with pytest.raises(InputError, match="no weights"):
        pool.next_done()


# real actors


@pytest.fixture(scope="module")
def by_value(ray_cluster: int) -> Iterator[None]:
    """Actors get this module's classes with the work: they cannot import a test file."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.usefixtures("by_value")
def test_an_actor_that_dies_is_replaced_and_everything_else_finishes(tmp_path: Path) -> None:
    """Two actors, sixteen units, two of which end their process: those two fail, and the other units finish.

    A unit that was committed just before its actor died may lose its receipt, which is no failure: its file is there.
    """

    def is_done(unit: Unit[Item]) -> bool:
        return all((tmp_path / item.item_id).exists() for item in unit.items)

    plan = units(
        *[f"a-{ordinal}" for ordinal in range(7)], "exit-1", *[f"b-{ordinal}" for ordinal in range(7)], "exit-2"
    )
    with open_pool(RayExecutor(num_actors=2), Spec(tmp_path)) as pool:
        ended = drain(pool, plan, is_done)
    failed = [each for each in ended if each.failure]
    assert sorted(each.unit.items[0].item_id for each in failed) == ["exit-1", "exit-2"]
    assert all(each.failure and each.failure.is_death and each.failure.error == "ActorDied" for each in failed)
    finished = [path.name for path in tmp_path.iterdir() if path.name[:2] in ("a-", "b-")]
    assert len(finished) == 14
    assert len(list(tmp_path.glob("built-*"))) >= 3  # two to begin with, and those that replaced the dead


@pytest.mark.usefixtures("by_value")
def test_errors_in_actors_give_the_same_failures_as_in_this_process(tmp_path: Path) -> None:
    names = ["config", "storage", "media", "odd", "silent", "a"]
    with open_pool(RayExecutor(num_actors=1), Spec(tmp_path)) as pool:
        remote = {each.unit.items[0].item_id: each for each in drain(pool, units(*names))}
    local = {name: run_and_catch(Worker(tmp_path), units(name)[0]) for name in names}
    for name in names:
        there, here = remote[name], local[name]
        assert (there.receipt is None) == (here.receipt is None)
        if there.failure and here.failure:
            assert (there.failure.error, there.failure.is_fatal) == (here.failure.error, here.failure.is_fatal)
            assert str(there.failure.cause) == str(here.failure.cause)


@pytest.mark.usefixtures("by_value")
def test_an_error_while_building_a_worker_on_an_actor_is_a_fatal_failure(tmp_path: Path) -> None:
    with open_pool(RayExecutor(num_actors=1), Spec(tmp_path, broken=True)) as pool:
        (outcome,) = drain(pool, units("a"))
    assert outcome.failure is not None and outcome.failure.is_fatal
    assert isinstance(outcome.failure.cause, InputError)
    assert outcome.failure.cause.fix == "fetch them"


@pytest.mark.usefixtures("by_value")
def test_every_actor_computes_on_one_thread(tmp_path: Path) -> None:
    with open_pool(RayExecutor(num_actors=2), Spec(tmp_path)) as pool:
        drain(pool, units("threads-1", "threads-2", "threads-3"))
    assert {path.read_text() for path in tmp_path.glob("threads-*")} == {"1"}


@pytest.mark.usefixtures("by_value")
def test_a_closed_pool_leaves_no_actor_and_a_session_does_not_stop_a_ray_that_was_running(tmp_path: Path) -> None:
    import ray

    with session.ray_session(), open_pool(RayExecutor(num_actors=2), Spec(tmp_path)) as pool:
        drain(pool, units("a", "b", "c", "d"))
        processes = [int(path.name.removeprefix("built-")) for path in tmp_path.glob("built-*")]
    assert ray.is_initialized()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]


def test_a_session_started_in_the_block_ends_with_it_and_its_files_are_removed() -> None:
    """In a process of its own, as a command would."""
    code = (
        "import os, sys, tempfile\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "from avpref.execution import ray_session as session\n"
        "from avpref.config.executor_settings import RayExecutor\n"
        "with session.ray_session():\n"
        "    session.join_ray(RayExecutor(num_actors=1))\n"
        "import ray\n"
        "print(ray.is_initialized(), len(list(session.Path(session.ray_folder()).glob('session_*_*'))))\n"
    )
    folder = Path(tempfile.mkdtemp(prefix="avp"))  # sockets have short names
    try:
        run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert run.stdout.split() == ["False", "0"]


def test_old_sessions_are_removed_once_their_process_ended(tmp_path: Path) -> None:
    """A run of several days keeps its files, however old its folder looks."""
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)
    old, young, alive = (
        tmp_path / f"session_2026-01-01_00-00-0{n}_1_{p}" for n, p in enumerate((ended, ended, os.getpid()))
    )
    for folder in (old, young, alive):
        folder.mkdir()
    for folder in (old, alive):
        os.utime(folder, (0, 0))
    (tmp_path / "session_latest").symlink_to(old)
    session._remove_old_sessions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted([young.name, alive.name])
