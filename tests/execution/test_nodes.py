"""Nodes that die in the middle of stages or join late. Each node is a raylet of a Ray cluster on this machine.

The cluster runs in a process of its own, apart from the one that other tests share, and requires a token. The stages run
in another process, as a command would.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from avpref.storage.run_folder import RunFolder

PATIENCE_S = 400.0
TOKEN = "0123456789abcdef0123456789abcdef"
FAST_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_worker_niceness": "0",
}
"""Settings of Ray: the head notices a dead node after two seconds instead of fifteen and waits longer for a slow one; workers
keep their priority on a busy machine."""

HOST = """
import sys
from ray.cluster_utils import Cluster

small = dict(object_store_memory=80 * 2**20, include_dashboard=False)
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, **small))
print(cluster.address, flush=True)
print("ready", flush=True)
for line in sys.stdin:
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, wait=False)
    print(node.node_id, node.all_processes["raylet"][0].process.pid, flush=True)
cluster.shutdown()
"""

DRIVER = """
import contextlib, os, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from avpref.execution import run_units
from avpref.execution.pool import open_pool
from avpref.execution.ray_session import ray_session
from avpref.flows.run import Run
from avpref.flows.stages.generate import generate
from avpref.flows.stages.pair import pair
from avpref.storage.run_folder import RunFolder, open_root
from avpref.flows.stages.score import score
from avpref.config.executor_settings import RayExecutor
from avpref.storage.local_files import commit_once

root, notes = Path(sys.argv[1]), Path(sys.argv[2])

@dataclass
class Held:
    "Workers that wait in the middle of a stage until the file hold-STAGE is removed."
    spec: object
    notes: Path
    units: Path

    def build(self):
        return Held(self.spec.build(), self.notes, self.units)

    def run(self, unit):
        import ray
        if (self.notes / f"hold-{unit.stage}").exists() and len(list(self.units.glob(f"{unit.stage}/*/*.parquet"))) >= 2:
            node = ray.get_runtime_context().get_node_id()
            commit_once(self.notes / f"held-{unit.stage}-{node}", f"{os.getpid()} {unit.name}".encode())
            while (self.notes / f"hold-{unit.stage}").exists():
                time.sleep(0.05)
        return self.spec.run(unit)

def held(settings, spec, files=None):
    return open_pool(settings, Held(spec, notes, root / "units"), files)

run_units.open_pool = held
folder = open_root(root)
folder = RunFolder(root, folder.settings.model_copy(update={"executor": RayExecutor(num_actors=2, start_patience_s=300)}))
with folder.locked(), ray_session():
    for stage in (generate, score, pair):
        stage.fn(Run.of(folder))
    from ray._private.internal_api import memory_summary
    print(memory_summary(stats_only=True))
"""


@dataclass
class Nodes:
    """The cluster's process, its address and the raylets of its nodes."""

    process: subprocess.Popen[str]
    errors: Path
    address: str = ""
    raylets: dict[str, int] = field(default_factory=dict)

    def answer(self) -> str:
        """The host's next line; fails with the host's errors if it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            status, text = self.process.wait(PATIENCE_S), self.errors.read_text(errors="replace")
            pytest.fail(f"the host of the Ray cluster ended with status {status}:\n{text}", pytrace=False)
        return line

    def add(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("add\n")
        self.process.stdin.flush()
        node, raylet = self.answer().split()
        self.raylets[node] = int(raylet)
        return node

    def kill(self, node: str, workers: list[int]) -> None:
        """Kill the raylet, and the workers, which would otherwise run on for a moment: as if the machine were gone."""
        for process in [self.raylets[node], *workers]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def environment(token: str = TOKEN, **variables: str) -> dict[str, str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    ray = {**FAST_HEALTH_CHECKS, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    return {**known, **ray, **variables}


@contextlib.contextmanager
def running_cluster(program: str = HOST) -> Iterator[Nodes]:
    """The cluster of ``program``, with a temporary folder of its own. Fails with the host's errors if it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="avp", dir="/tmp"))  # the names of sockets must be short
    (folder / "ray").mkdir()  # Ray's cluster utilities write the cluster's address there and do not make the folder
    errors = folder / "host.stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(RAY_TMPDIR=str(folder)),
            start_new_session=True,
        )
    try:
        nodes = Nodes(process, errors)
        nodes.address = nodes.answer()
        assert nodes.answer() == "ready"
        yield nodes
        process.communicate("", timeout=PATIENCE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running_cluster() as found:
        yield found


@pytest.mark.parametrize("said", ["", "print('127.0.0.1:1', flush=True)\n"], ids=["at once", "after its address"])
def test_a_host_that_ends_before_it_is_ready_fails_with_its_errors(said: str) -> None:
    expected = pytest.raises(pytest.fail.Exception, match=r"ended with status 1:\n(.|\n)*OSError: no such folder")
    with expected, running_cluster(f"{said}raise OSError('no such folder')"):
        raise AssertionError("the cluster started")


def wait_until(is_so: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "the stages make no progress"
        time.sleep(0.05)


@pytest.mark.slow
def test_nodes_that_die_in_the_middle_of_stages_lose_nothing_and_later_nodes_are_used(
    nodes: Nodes,
    tiny_run: RunFolder,
    tiny_copy: Callable[..., RunFolder],
    tmp_path: Path,
    sealed: Callable[[RunFolder, str], list[bytes]],
    timeless: Callable[[RunFolder], list[dict[str, object]]],
) -> None:
    """Of two nodes one dies while candidates are made: its actor cannot be placed again, and the other actor goes on alone.
    The other dies while they are scored: no actor runs until a third node joins."""
    folder, notes = tiny_copy("generate"), tmp_path / "notes"
    notes.mkdir()
    nodes.add()
    nodes.add()
    for stage in ("generate", "score"):
        (notes / f"hold-{stage}").touch()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder.root), str(notes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(RAY_ADDRESS=nodes.address),
        start_new_session=True,
    )
    lost = []
    try:
        for stage, num_held in (("generate", 2), ("score", 1)):
            wait_until(lambda s=stage, n=num_held: len(list(notes.glob(f"held-{s}-*"))) >= n, driver)  # type: ignore[misc]
            victim = sorted(notes.glob(f"held-{stage}-*"))[0]
            process, unit = victim.read_text().split()
            nodes.kill(victim.name.rpartition("-")[2], [int(process)])
            lost.append((stage, unit))
            (notes / f"hold-{stage}").unlink()
        nodes.add()
        stdout, stderr = driver.communicate(timeout=PATIENCE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    assert driver.returncode == 0, stderr
    for table in ("prompts", "norms", "rewards", "pairs", "skipped", "excluded"):
        assert sealed(folder, table) == sealed(tiny_run, table), table
    assert timeless(folder) == timeless(tiny_run)
    for stage, unit in lost:  # units of the dead nodes were computed by others
        assert list(folder.root.glob(f"units/{stage}/*/{unit}.parquet"))
    events = [json.loads(line) for line in (folder.root / "events.jsonl").read_text().splitlines()]
    assert not [event for event in events if event["event"] in ("unit_failed", "quarantined")]
    assert " 0 objects" in stdout  # clips travel as paths and hashes


REFUSED = """
from avpref.execution.pool import open_pool
from avpref.errors import ClusterError
from avpref.config.executor_settings import RayExecutor
from avpref.storage.unit import Unit
try:
    with open_pool(RayExecutor(num_gpus_per_actor=0.5, start_patience_s=2), None) as pool:
        pool.submit(Unit("stage", 0, "f", ()))
        pool.next_done()
except ClusterError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("another" + TOKEN, ("no Ray cluster could be joined at", "RAY_AUTH_TOKEN")),
        (TOKEN, ("no actor could be placed within 2 s: 2 actors with 1 CPU and 0.5 GPU each", "GPU 0 (0 free)")),
    ],
    ids=["wrong token", "no capacity"],
)
def test_the_error_says_that_a_cluster_refuses_or_has_no_capacity(
    nodes: Nodes, token: str, expected: tuple[str, ...]
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", REFUSED],
        env=environment(token, RAY_ADDRESS=nodes.address),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    for part in expected:
        assert part in process.stdout, process.stdout + process.stderr
