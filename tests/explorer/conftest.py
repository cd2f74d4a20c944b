"""An explorer over a run with clips, asked in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from shown_runs import ShownRun, make_shown_run
from starlette.testclient import TestClient

from avpref.explorer.access import Access
from avpref.explorer.application import application_of
from avpref.explorer.opened_runs import OpenedRuns
from avpref.storage.run_folder import RunFolder

Ask: TypeAlias = TestClient


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


@pytest.fixture
def own_run(tmp_path: Path) -> RunFolder:
    """A small run of one test."""
    return make_shown_run(tmp_path, ShownRun(train=2, held_out=1))
