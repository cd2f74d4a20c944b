"""A Prefect server that is killed in the middle of a run: work goes on, and what happened is told when it is back."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avpref.flows.run_stages import STAGES
from avpref.flows.stages.report import report
from avpref.storage.run_folder import RESULT_FILE, list_runs, open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TINY = "configs/tiny.yaml"
LARGER = ["prompts.num_prompts=48", "prompts.num_sft_clips=24"]
OUTAGE_S = 130.0
ALL_STAGES = {stage.name for stage in (*STAGES, report)}


@pytest.fixture(scope="module")
def server(make_server: Callable[..., Any]) -> Any:
    return make_server()


def is_finished(runs: Path) -> bool:
    return bool(list_runs(runs)) and open_run(runs).documents.read(RESULT_FILE) is not None


def kill_within(server: Any, parent: Callable[[], dict[str, Any]], stage: str) -> dict[str, Any]:
    """Kill the server as soon as a stage of a flow run is in progress; returns the flow run."""
    server.until(f"stage {stage}", lambda: (run := parent()) and stage in server.stages(run))
    run = parent()
    server.kill()
    assert not server.is_healthy()
    return run


def test_the_plain_command_goes_on_and_is_reported_whole(server: Any) -> None:
    runs = server.folder / "plain"
    overrides = [part for override in LARGER for part in ("--set", override)]
    command = ["--config", TINY, "--runs", str(runs), "--json", *overrides]

    def parent() -> Any:
        return next(iter(server.flow_runs(runs=str(runs))), None)

    process = subprocess.Popen(
        [server.program("avpref"), "retrain", *command],
        cwd=server.root,
        env=server.environment | {"AVPREF_REPORTING__FLUSH_S": "600"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = kill_within(server, parent, "sft")
    server.until("the run to be finished without the server", lambda: is_finished(runs))
    server.start()
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == (0 if json.loads(stdout)["gate"]["verdict"] == "promote" else 3), stderr
    assert "work goes on" in stderr and "reporting resumes" in stderr
    assert server.flow_run(run["id"])["state_name"] == "Completed"
    assert server.stages(run) == dict.fromkeys(ALL_STAGES, "Completed")


def test_a_deployed_run_outlives_an_outage_of_two_minutes(server: Any) -> None:
    server.deploy()
    worker, runs = server.worker(), server.folder / "deployed"
    asked = server.run_deployment("retrain/weekly-retrain", config_path=TINY, runs=str(runs), overrides=LARGER)
    run = kill_within(server, lambda: server.flow_run(asked), "sft")
    killed = time.monotonic()
    server.until("the run to be finished without the server", lambda: is_finished(runs))
    time.sleep(max(0.0, killed + OUTAGE_S - time.monotonic()))
    server.start()
    ended = server.until("the flow run's end", lambda: found if (found := server.flow_run(asked))["end_time"] else None)
    assert ended["state_name"] == "Completed", server.logs()
    assert server.stages(run) == dict.fromkeys(ALL_STAGES, "Completed")
    assert worker.poll() is None, server.logs()


def test_a_server_that_is_not_there_at_the_start_is_an_error(server: Any) -> None:
    server.kill()
    runs = server.folder / "never"
    done = server.run("avpref", "retrain", "--config", TINY, "--runs", str(runs))
    assert done.returncode == 1 and server.url in done.stderr and "prefect server start" in done.stderr
    assert not (open_run(runs).root / "units").exists()
