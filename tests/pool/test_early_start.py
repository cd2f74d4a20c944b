"""A new pool's actors start before the stages are imported; a pool without sure work starts none."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from avpref.config.executor_settings import RayExecutor
from avpref.config.pool.pool_loading import load_pool
from avpref.config.pool.pool_settings import PoolConfig
from avpref.execution import kept_actors, ray_session
from avpref.pool import early_start

CONFIG = Path(__file__).parents[2] / "configs" / "pool.yaml"


@pytest.fixture
def config() -> PoolConfig:
    return load_pool(CONFIG, (), environment={})


def test_a_new_pool_with_a_source_is_sure_of_work(config: PoolConfig, tmp_path: Path) -> None:
    assert early_start.is_sure_of_work(config, [str(tmp_path)], tmp_path / "pools")
    assert early_start.is_sure_of_work(config, ["s3://bucket/clips"], tmp_path / "pools")
    assert early_start.is_sure_of_work(config, ["videos/**/*.mp4"], tmp_path / "pools")


def test_a_pool_with_units_without_sources_or_in_process_is_not(config: PoolConfig, tmp_path: Path) -> None:
    assert not early_start.is_sure_of_work(config, [], tmp_path)
    assert not early_start.is_sure_of_work(config, [str(tmp_path / "absent")], tmp_path)
    in_process = load_pool(CONFIG, ["executor={kind: in_process}"], environment={})
    assert not early_start.is_sure_of_work(in_process, [str(tmp_path)], tmp_path)
    (tmp_path / config.run.name / "units").mkdir(parents=True)
    assert not early_start.is_sure_of_work(config, [str(tmp_path)], tmp_path)


def test_the_start_imports_neither_the_stages_nor_prefect_and_its_modules_exist() -> None:
    for module in early_start.WORKER_MODULES:
        importlib.import_module(module)
    code = (
        "import sys, avpref.cli.actions.pool.start_pool; print(*{'prefect', 'av', 'cv2', 'duckdb'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_actors_that_were_started_early_are_those_of_the_first_pool(ray_cluster: int) -> None:
    import ray

    settings = RayExecutor(num_actors=2)
    with kept_actors.actors_kept():
        kept_actors.start_actors(settings, ["avpref.pool.scan.scan_worker"])
        kept_actors.start_actors(settings, ["avpref.pool.scan.scan_worker"])  # starts none beyond the first two
        actors = [kept_actors.take_actor(settings) for _ in range(2)]
        assert None not in actors and kept_actors.take_actor(settings) is None
        started = [actor for actor in actors if actor is not None]
        assert len({info.process for info in ray.get([actor.info.remote(None) for actor in started])}) == 2
        for actor in started:
            ray.kill(actor)


def test_no_actors_start_where_none_are_kept(ray_cluster: int) -> None:
    kept_actors.start_actors(RayExecutor(num_actors=2), [])
    with kept_actors.actors_kept():
        kept_actors.start_actors(RayExecutor(num_actors=2, num_gpus_per_actor=0.5), [])
        assert kept_actors.take_actor(RayExecutor(num_actors=2)) is None


def test_a_ray_that_was_started_here_gives_its_actors_their_variables(
    ray_cluster: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ray_session.has_actor_environment()
    monkeypatch.setattr(ray_session, "_started_node", "another")  # Ray was started by another program
    assert not ray_session.has_actor_environment()
