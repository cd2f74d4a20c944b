"""A real Prefect server on loopback: deployments from prefect.yaml, a worker, a scheduled run, and the plain command."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import yaml

from avpref import config
from avpref.datasets import tables
from avpref.flows.retrain import STAGES
from avpref.flows.run_folder import RESULT_FILE, list_runs, open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
TINY = "configs/tiny.yaml"
POOL = "avpref"
PATIENCE_S = 180.0
COMMAND_S = 400.0
SETTINGS = config.load(ROOT / TINY, environment={}).settings
PROMPTS_PER_SHARD = SETTINGS.run.shard_prompts - 1


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def until(what: str, probe: Callable[[], Any]) -> Any:
    """Poll ``probe`` until it gives something true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}")


@dataclass(frozen=True)
class Server:
    """A running server: its API and the environment of the commands that talk to it."""

    url: str
    environment: dict[str, str]
    folder: Path

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
            return json.loads(answer.read())

    def is_healthy(self) -> bool:
        try:
            return self.ask("/health") is True
        except OSError:
            return False

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program(name), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S
        )

    def flow_runs(self, **having: Any) -> list[dict[str, Any]]:
        return [
            run
            for run in self.ask("/flow_runs/filter", {})
            if all(run["parameters"].get(key) == value for key, value in having.items())
        ]

    def children(self, parent: dict[str, Any]) -> list[dict[str, Any]]:
        return self.ask("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [parent["id"]]}}})

    def of_runs(self, what: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Task runs or artifacts of some flow runs."""
        return self.ask(f"/{what}/filter", {"flow_runs": {"id": {"any_": [run["id"] for run in runs]}}})

    def flow_name(self, run: dict[str, Any]) -> str:
        return self.ask(f"/flows/{run['flow_id']}")["name"]


@contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is gone at the end of the block."""
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def without_prefect(home: Path) -> dict[str, str]:
    """This environment without anything that configures Prefect but a home of its own and no telemetry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AVPREF_"))}
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONSAFEPATH": "1",
        "PWD": str(ROOT),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = without_prefect(folder / "home") | {"PREFECT_API_URL": url}
    found = Server(url, environment, folder)
    command = [program("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with started(command, environment, folder / "server.log"):
        until("the server", found.is_healthy)
        yield found


@pytest.fixture(scope="module")
def deployed(server: Server) -> dict[str, dict[str, Any]]:
    """The deployments of prefect.yaml by their whole names."""
    pool = server.run("prefect", "work-pool", "create", POOL, "--type", "process")
    assert pool.returncode == 0, pool.stdout + pool.stderr
    deploy = server.run("prefect", "--no-prompt", "deploy", "--all")
    assert deploy.returncode == 0, deploy.stdout + deploy.stderr
    names = {flow["id"]: flow["name"] for flow in server.ask("/flows/filter", {})}
    return {f"{names[each['flow_id']]}/{each['name']}": each for each in server.ask("/deployments/filter", {})}


@pytest.fixture(scope="module")
def retrained(server: Server, deployed: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], Path]:
    """The flow run of a weekly retraining that a worker carried out, and the folder of its runs."""
    assert "retrain/weekly-retrain" in deployed
    runs = server.folder / "runs"
    parameters = {
        "config_path": TINY,
        "runs": str(runs),
        "overrides": [f"run.shard_prompts={PROMPTS_PER_SHARD}"],
    }
    with started(
        [program("prefect"), "worker", "start", "--pool", POOL], server.environment, server.folder / "worker.log"
    ):
        arguments = ("deployment", "run", "retrain/weekly-retrain", "--watch", "--params", json.dumps(parameters))
        watched = server.run("prefect", *arguments)
    assert watched.returncode == 0, watched.stdout + (server.folder / "worker.log").read_text()
    (run,) = server.flow_runs(runs=str(runs))
    return run, runs


def test_every_deployment_has_its_schedule_and_runs_once_at_a_time(deployed: dict[str, dict[str, Any]]) -> None:
    wanted = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert len(wanted) == len(deployed) == 2
    for each in wanted:
        (found,) = [deployment for name, deployment in deployed.items() if name.endswith("/" + each["name"])]
        assert found["entrypoint"] == each["entrypoint"]
        assert found["global_concurrency_limit"]["limit"] == each["concurrency_limit"] == 1
        crons = [(item["schedule"]["cron"], item["schedule"]["timezone"]) for item in found["schedules"]]
        assert crons == [(item["cron"], item["timezone"]) for item in each["schedules"]]
        assert all(item["active"] for item in found["schedules"])
        assert found["parameters"] == each["parameters"]
        (step,) = found["pull_steps"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(ROOT)


def test_a_deployed_retraining_leaves_its_result_in_the_run_folder(retrained: tuple[dict[str, Any], Path]) -> None:
    run, runs = retrained
    assert run["state_name"] == "Completed" and run["work_pool_name"] == POOL
    folder = open_run(runs)
    assert folder.settings.run.shard_prompts == PROMPTS_PER_SHARD
    assert folder.read_json(RESULT_FILE)["gate"]["verdict"] in ("promote", "refuse")
    assert (folder.root / "report.html").exists()


def test_each_stage_is_a_subflow_and_each_shard_a_task(server: Server, retrained: tuple[dict[str, Any], Path]) -> None:
    run, runs = retrained
    stages = until("all subflows", lambda: found if len(found := server.children(run)) == len(STAGES) else None)
    assert {server.flow_name(each) for each in stages} == {stage.name for stage in STAGES}
    assert {each["state_name"] for each in stages} == {"Completed"}
    folder = open_run(runs)
    settings, pairs = folder.settings, folder.read(tables.PAIRS).to_pylist()
    num_prompts, num_held_out = folder.num_rows(tables.PROMPTS), settings.prompts.num_evaluation_clips
    shards = {
        "sft_clips": settings.prompts.num_sft_clips,  # type: ignore[union-attr]
        "generate": num_prompts,
        "score": num_prompts,
        "encode": len({row[side] for row in pairs for side in ("chosen", "rejected")}),
        "evaluate": num_held_out,
        "evaluate_score": num_held_out,
    }
    wanted = {f"{name}-{n}" for name, items in shards.items() for n in range(math.ceil(items / PROMPTS_PER_SHARD))}
    tasks = until(
        "a task run per shard", lambda: found if len(found := shard_tasks(server, stages)) >= len(wanted) else None
    )
    assert Counter(task["name"] for task in tasks) == Counter(wanted)
    assert {task["state_name"] for task in tasks} == {"Completed"}


def shard_tasks(server: Server, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for task in server.of_runs("task_runs", stages) if task["task_key"].startswith("run_shard")]


def test_progress_and_tables_are_artifacts(server: Server, retrained: tuple[dict[str, Any], Path]) -> None:
    run, runs = retrained
    found = {each["key"]: each for each in server.of_runs("artifacts", [run, *server.children(run)])}
    staged = ("sft-clips", "generate", "score", "encode", "evaluate", "evaluate-score")
    progress = {f"avpref-{name}" for name in (*staged, "sft", "train")}
    shards = {f"avpref-{name}-shards" for name in staged}
    assert {key for key, each in found.items() if each["type"] == "progress"} == progress
    assert {key for key, each in found.items() if each["type"] == "table"} == shards | {
        "avpref-pairs",
        "avpref-quarantine",
    }
    assert {found[key]["data"] for key in progress} == {100.0}
    folder = open_run(runs)
    rows = json.loads(found["avpref-generate-shards"]["data"])
    assert sum(row["items"] for row in rows) == folder.num_rows(tables.CANDIDATES)
    assert len(json.loads(found["avpref-quarantine"]["data"])) == folder.num_rows(tables.QUARANTINE)


def test_the_plain_command_reports_to_a_configured_server(
    server: Server, retrained: tuple[dict[str, Any], Path]
) -> None:
    runs = str(server.folder / "plain")
    done = server.run("avpref", "retrain", "--config", TINY, "--runs", runs, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["gate"]["verdict"] == "promote" else 3), done.stderr
    (run,) = server.flow_runs(runs=runs)
    assert server.flow_name(run) == "retrain" and run["state_name"] == "Completed"
    stages = until("all subflows", lambda: found if len(found := server.children(run)) == len(STAGES) else None)
    assert {each["parameters"]["run_dir"] for each in stages} == {document["run_dir"]}


def test_without_a_server_none_is_started(
    server: Server, retrained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    before = len(server.flow_runs())
    _, runs = retrained
    environment = without_prefect(tmp_path / "home")
    command = [program("avpref"), "retrain", "--config", TINY, "--runs", str(runs), "--json"]
    override = ["--set", f"run.shard_prompts={PROMPTS_PER_SHARD}"]
    done = subprocess.run(
        [*command, *override], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=COMMAND_S
    )
    assert json.loads(done.stdout)["run_id"] == list_runs(runs)[0], done.stderr
    assert list((server.folder / "home").glob("prefect.db*")), (
        "a server of its own would leave a database like this one"
    )
    assert not list((tmp_path / "home").glob("prefect.db*"))
    assert "Finished in state" not in done.stderr and len(server.flow_runs()) == before
