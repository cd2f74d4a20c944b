"""Fixtures for all rooms."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
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
pytest_plugins = ("run_copies",)


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
    from avpref.config import loading as config
    from avpref.flows.retrain import run_loop
    from avpref.storage.run_folder import create

    folder = create(tmp_path_factory.mktemp("tiny"), config.load(HERE.parent / "configs" / "tiny.yaml").settings)
    run_loop(folder)
    return folder


@pytest.fixture(scope="session")
def decided_run() -> Callable[..., RunFolder]:
    """``decided_run(runs, name, gain)`` is a run that has decided: sealed scores, adapter files, no training behind them.

    ``gain`` is by how much the policy's scores are better, in standard deviations.
    """
    return make_decided_run


def make_decided_run(
    runs: Path, name: str = "one", gain: float = 2.0, num_prompts: int = 40, given: Sequence[str] = ()
) -> RunFolder:
    import numpy as np

    from avpref import __version__
    from avpref.config import loading as config
    from avpref.datasets import tables
    from avpref.datasets.evidence.decision import Inputs, MetricScale, scores_of, take
    from avpref.datasets.rows import EvaluationRow, Kind, Side
    from avpref.domain import METRICS, ScoreStatus
    from avpref.identity import bytes_sha256
    from avpref.registry import decisions
    from avpref.storage.run_folder import create

    folder = create(runs, config.load(HERE.parent / "configs" / "tiny.yaml", [f"run.name={name}", *given], {}).settings)
    places = {
        decisions.CHECKPOINT: "models/sft-a/network.safetensors",
        decisions.ADAPTER: "models/dpo-a/adapter/adapter_model.safetensors",
        decisions.SUMMARY: "models/dpo-a/summary.json",
    }
    files = []
    for role, place in places.items():
        data = f"{role} of {name if role != decisions.CHECKPOINT else 'all'}".encode()
        (folder.root / place).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / place).write_bytes(data)
        path = f"{folder.run_id}/{place}"
        files.append(decisions.RecordedFile(role, path, bytes_sha256(data), len(data)))
    generator, prompts = np.random.default_rng(7), tuple(f"p{number}" for number in range(num_prompts))
    rows = []
    for prompt in prompts:
        for metric in METRICS:
            value = generator.normal()
            for side in Side:
                better = gain * (side is Side.POLICY) + 0.1 * generator.normal()
                number = value + (better if metric.higher_is_better else -better)
                rows.append(
                    EvaluationRow(
                        "e0",
                        prompt,
                        0,
                        side,
                        f"c{side}{prompt}",
                        0,
                        Kind.SCORE,
                        metric.name,
                        number,
                        ScoreStatus.OK,
                        "",
                        "n0",
                    )
                )
    arrow = tables.to_arrow(tables.EVALUATIONS, rows)
    norm = [
        tables.to_arrow(tables.NORMS, [])
        .to_pandas()
        .reindex([0])
        .assign(norm_id="n0", metric=m.name, population="all", count=2, mean=0.0, std=1.0)
        .fillna({f"q{q}": 0.0 for q in ("05", "25", "50", "75", "95")})
        for m in METRICS
    ]
    import pandas as pd

    folder.tables.seal(tables.NORMS, "n0", tables.to_arrow(tables.NORMS, pd.concat(norm)))
    inputs = Inputs(
        run_id=folder.run_id,
        product_version=__version__,
        settings=folder.settings.evaluation,
        bootstrap_seed=folder.settings.run.seed,
        norm_id="n0",
        metrics=tuple(MetricScale(m.name, m.dimension, m.higher_is_better, 0.0, 1.0) for m in METRICS),
        prompts=prompts,
        num_held_out=num_prompts,
        displacement={"video": -0.01, "audio": 0.001},
        meaningless=(),
        policy_hash=f"policy of {name}",
        adapter_hash=files[1].sha256,
        reference_hash=files[0].sha256,
        evaluations=folder.tables.seal(tables.EVALUATIONS, name, arrow).version,
    )
    decision = take(inputs, scores_of(arrow.to_pandas(), prompts, [metric.name for metric in METRICS]))
    decisions.seal_decision(folder, decision)
    decisions.record_decision(folder, decision, {"seed": folder.settings.run.seed}, files)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[int]:
    """One local Ray for all tests that need it; gives the number of its processors. Pools and loops join it."""
    from avpref.config.schema import RayExecutor
    from avpref.execution.ray_session import join_ray, ray_session

    with ray_session():
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
