"""Fixtures for all rooms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from avpref.flows.run_folder import RunFolder

hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numeric vectors from the original implementations."""
    return Path(os.environ.get("AVPREF_GOLDEN", HERE / "golden"))


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real clips; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("AVPREF_MEDIA", HERE.parent.parent / "shared" / "media"))
    if not (folder / "clips.csv").exists():
        pytest.skip(f"no real clips: {folder.name}/clips.csv is absent (set AVPREF_MEDIA)")
    return folder


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of configs/tiny.yaml, made once per test session. Read it; a test that changes a run copies it."""
    from avpref import config
    from avpref.flows.retrain import run_loop
    from avpref.flows.run_folder import create

    folder = create(tmp_path_factory.mktemp("tiny"), config.load(HERE.parent / "configs" / "tiny.yaml").settings)
    run_loop(folder)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[int]:
    """One local Ray for all tests that need it; gives the number of its processors. Pools and loops join it."""
    from avpref import cluster
    from avpref.settings import RayExecutor

    with cluster.ray_session():
        cluster.join_ray(RayExecutor(num_actors=3))
        yield 3
