"""An explorer over a run with clips, asked in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from shown_runs import ShownRun, make_shown_run
from starlette.testclient import TestClient

from avpref.explorer.access import Access
from avpref.explorer.application import application_of
from avpref.explorer.opened_runs import OpenedRuns
from avpref.storage.run_folder import RunFolder, open_run


@pytest.fixture(scope="session")
def shown_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with clips, pairs and an evaluation; to be read only."""
    return make_shown_run(tmp_path_factory.mktemp("shown"))


@pytest.fixture(scope="session")
def client_of() -> Callable[[Path], TestClient]:
    """A client of an explorer over a folder of runs."""
    return lambda runs: TestClient(
        application_of(OpenedRuns(runs), Access("127.0.0.1", 80)), base_url="http://127.0.0.1"
    )


@pytest.fixture(scope="session")
def client(shown_run: RunFolder, client_of: Callable[[Path], TestClient]) -> TestClient:
    """A client of the explorer over the run."""
    return client_of(shown_run.runs)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A small run, which :func:`own_run` copies."""
    return make_shown_run(tmp_path_factory.mktemp("small"), ShownRun(train=2, held_out=1))


@pytest.fixture
def own_run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A small run of one test."""
    shutil.copytree(small_run.root, tmp_path / small_run.run_id)
    return open_run(tmp_path)
