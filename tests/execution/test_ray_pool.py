"""Ray actors starting: those without capacity delay nothing, and a start that cannot succeed is an error at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import avpref
from avpref.config.executor_settings import RayExecutor
from avpref.errors import ClusterError, ConfigError, StorageError
from avpref.execution import ray_actor, ray_pool
from avpref.execution import ray_session as session
from avpref.execution.code_version import HASH_IN_VERSION, _sources, code_version
from avpref.execution.contract import Receipt
from avpref.execution.fakes import FakeItem
from avpref.execution.pool import open_pool
from avpref.execution.ray_actor import ActorInfo, Probe, require_visible
from avpref.execution.ray_pool import MAX_FAILED_STARTS, RayPool
from avpref.storage.local_files import LocalFiles, commit_once
from avpref.storage.unit import Item, Unit


@dataclass(frozen=True)
class Units:
    """Units are files of their names."""

    folder: Path

    @property
    def store(self) -> LocalFiles:
        return LocalFiles(self.folder)

    def exists(self, unit: Unit[Item]) -> bool:
        return self.store.exists(unit.name)


@dataclass(frozen=True)
class Spec:
    folder: Path
    dies: bool = False

    def build(self) -> Worker:
        commit_once(self.folder / f"built-{os.getpid()}-{time.time_ns()}", b"")
        if self.dies:
            os._exit(1)
        return Worker(self.folder)


@dataclass(frozen=True)
class Worker:
    folder: Path

    def run(self, unit: Unit[FakeItem]) -> Receipt:
        commit_once(self.folder / unit.name, str(os.getpid()).encode())
        return Receipt(len(unit.items), 0, 0.0)


@pytest.fixture(scope="module", autouse=True)
def by_value(ray_cluster: int) -> Iterator[None]:
    """Actors get this module's classes with the work: they cannot import a test file."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def units(count: int) -> list[Unit[FakeItem]]:
    return [Unit("stage", 0, "f", (FakeItem(f"i{ordinal}"),)) for ordinal in range(count)]


def test_actors_that_cannot_be_placed_are_sent_no_units(ray_cluster: int, tmp_path: Path) -> None:
    plan = units(4 * ray_cluster)
    with open_pool(RayExecutor(num_actors=2 * ray_cluster), Spec(tmp_path), Units(tmp_path)) as pool:
        assert pool.capacity == 4 * ray_cluster
        for unit in plan:
            pool.submit(unit)
        ended = [pool.next_done() for _ in plan]
    assert all(outcome.receipt for outcome in ended)
    assert {outcome.unit.name for outcome in ended} == {unit.name for unit in plan}
    assert len(list(tmp_path.glob("built-*"))) <= ray_cluster
    assert not list(tmp_path.glob(".partial-*"))  # probes are taken away


def test_a_pool_that_closes_while_its_actors_start_leaves_no_probe(ray_cluster: int, tmp_path: Path) -> None:
    with open_pool(RayExecutor(num_actors=2 * ray_cluster), Spec(tmp_path), Units(tmp_path)):
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".partial-probe*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert list(tmp_path.glob(".partial-probe*"))  # committed, and not yet read
    assert not list(tmp_path.glob(".partial-*"))


def test_an_actor_with_other_code_is_refused_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = code_version()
    monkeypatch.setattr(ray_pool, "code_version", lambda: "0.0.9+feedfeedfeed")
    with open_pool(RayExecutor(num_actors=1), Spec(tmp_path), Units(tmp_path)) as pool:
        pool.submit(units(1)[0])
        with pytest.raises(ClusterError, match=f"runs avpref {there.replace('+', '.')}, this process 0.0.9") as caught:
            pool.next_done()
    assert "same version" in caught.value.fix


def test_actors_that_die_before_they_are_ready_are_replaced_a_limited_number_of_times(tmp_path: Path) -> None:
    with open_pool(RayExecutor(num_actors=1), Spec(tmp_path, dies=True), Units(tmp_path)) as pool:
        pool.submit(units(1)[0])
        with pytest.raises(ClusterError, match=f"all 1 actors died {MAX_FAILED_STARTS} times before they were ready"):
            pool.next_done()
    assert len(list(tmp_path.glob("built-*"))) == MAX_FAILED_STARTS


def test_an_actor_that_cannot_write_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with open_pool(RayExecutor(num_actors=1), Spec(tmp_path), Units(tmp_path / "file" / "units")) as pool:
        pool.submit(units(1)[0])
        with pytest.raises(StorageError, match=r"process \d+ on .* \(node .*\): cannot write"):
            pool.next_done()


@pytest.mark.parametrize("content", [None, "another node 1"])
def test_files_that_an_actor_committed_must_be_visible_to_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(ray_actor, "PROBE_TIMEOUT_S", 0.0)
    if content is not None:
        (tmp_path / "probe").write_text(content)
    info = ActorInfo("abcdef0123456789", "far", 7, code_version())
    with pytest.raises(
        StorageError, match=r"a file that process 7 on far \(node abcdef01\) committed to .* is not visible"
    ):
        require_visible(Probe(LocalFiles(tmp_path), "probe"), info)
    (tmp_path / "probe").write_text("abcdef0123456789 7")
    require_visible(Probe(LocalFiles(tmp_path), "probe"), info)
    assert not (tmp_path / "probe").exists()


def test_a_machine_without_capacity_for_an_actor_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match="no actor can be placed on this machine: 2 actors with 1 CPU and 512 GPU"):
        RayPool(Spec(tmp_path), RayExecutor(num_gpus_per_actor=512.0))


@pytest.mark.parametrize("address", ["", "  "])
def test_an_empty_variable_is_refused_unless_the_configuration_names_the_cluster(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match="RAY_ADDRESS is set, but empty") as caught:
        session.cluster_address(RayExecutor())
    assert "auto" in caught.value.expected and "unset RAY_ADDRESS" in caught.value.fix
    assert session.cluster_address(RayExecutor(address="head:6379")) == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert session.cluster_address(RayExecutor()) == "other:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    assert session.cluster_address(RayExecutor()) == ""


def test_a_command_with_an_empty_variable_starts_no_ray() -> None:
    code = (
        "from avpref.config.executor_settings import RayExecutor\n"
        "from avpref.errors import ConfigError\n"
        "from avpref.execution.ray_session import join_ray\n"
        "import ray\n"
        "try:\n"
        "    join_ray(RayExecutor(num_actors=1))\n"
        "except ConfigError as error:\n"
        "    print(ray.is_initialized(), error.exit_code)\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "2"]


def test_the_ray_client_is_refused() -> None:
    with pytest.raises(ClusterError, match="Ray client"):
        session._join("ray://head:10001")


def test_the_code_version_covers_every_source_file() -> None:
    package = Path(avpref.__file__).parent
    version, _, sources = code_version().partition("+")
    assert version == avpref.__version__ and len(sources) == HASH_IN_VERSION
    found = {path.relative_to(package).as_posix() for path in _sources(package)}
    assert {"errors.py", "execution/retry.py", "datasets/queries/differences.sql", "rewards/toy/toy.py"} <= found
