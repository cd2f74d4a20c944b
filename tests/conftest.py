"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from avpref.config.storage_settings import ObjectStorage
    from avpref.storage.run_folder import RunFolder

hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")

HERE = Path(__file__).parent
pytest_plugins = ("run_copies", "outside_modules", "worker_groups")

if not os.access(HERE.parent, os.W_OK):
    hypothesis.configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")


def pytest_configure() -> None:
    """Processes that tests start can be interrupted, even where the parent of pytest ignores SIGINT (as ``nohup`` may)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of configs/tiny.yaml, made once per test session. Read it; a test that changes a run copies it."""
    from avpref.config.loading import load_config
    from avpref.flows.retrain import run_loop
    from avpref.storage.run_folder import create

    folder = create(tmp_path_factory.mktemp("tiny"), load_config(HERE.parent / "configs" / "tiny.yaml").settings)
    run_loop(folder)
    return folder


@pytest.fixture(scope="session")
def decided_run() -> Callable[..., RunFolder]:
    """``decided_run(runs, name, gain)`` is a run that has decided: sealed scores, adapter files, no training behind them.

    ``gain`` is by how much the policy's scores are better, in standard deviations.
    """
    from decided_runs import make_decided_run

    return make_decided_run


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[int]:
    """One local Ray for all tests that need it; gives the number of its processors. Pools and loops join it."""
    from avpref.config.executor_settings import RayExecutor
    from avpref.execution.ray_session import join_ray, ray_session

    with ray_session(), pytest.MonkeyPatch.context() as patch:
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(variable, "test")  # actors inherit them: tests of the object store run on this Ray too
        join_ray(RayExecutor(num_actors=3))
        yield 3


OBJECT_STORE = """
import sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start_response):
    with lock:
        return moto(environ, start_response)

server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.port, flush=True)
sys.stdin.read()
"""
"""Moto looks whether an object exists and then stores it; a real store does both in one step, and so does one at a time."""


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The URL of an S3-compatible server in a process of its own; credentials are in the environment."""
    arguments = [sys.executable, "-c", OBJECT_STORE]
    quiet = subprocess.DEVNULL
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True) as server,
    ):
        assert server.stdout is not None and server.stdin is not None
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


@pytest.fixture
def bucket(object_store: str, request: pytest.FixtureRequest) -> ObjectStorage:
    """A new bucket, as the section ``storage`` names it."""
    from avpref.config.storage_settings import ObjectStorage
    from avpref.identity import digest

    name = f"bucket-{digest(request.node.nodeid)}"
    with urllib.request.urlopen(urllib.request.Request(f"{object_store}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    return ObjectStorage(url=f"s3://{name}/team/runs", endpoint=object_store, allow_http=True)
