"""A real Prefect server on loopback: deployments from prefect.yaml, a worker, a scheduled run, and the plain command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpref.config.data_settings import ToyWorldPrompts
from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.domain import Split
from avpref.flows.run_stages import STAGES
from avpref.flows.stages.report import report
from avpref.storage.run_folder import RESULT_FILE, list_runs, open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[4]
TINY = "configs/tiny.yaml"
REPORTED = (*STAGES, report)
"""Stages that a whole execution reports as subflows."""
POOL = "avpref"
SETTINGS = load_config(ROOT / TINY, environment={}).settings
TEXTS = "text_states-"
"""Beginning of the names of task runs that encode the texts of a training."""
PROMPTS_PER_SHARD = SETTINGS.run.shard_prompts - 1


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, make_server: Callable[..., Any]) -> Any:
    """A server on each of the two databases that Prefect knows."""
    return make_server(request.getfixturevalue("postgres") if request.param == "postgresql" else "")


@pytest.fixture(scope="module")
def deployed(server: Any) -> dict[str, dict[str, Any]]:
    """The deployments of prefect.yaml by their whole names."""
    found: dict[str, dict[str, Any]] = server.deploy()
    return found


@pytest.fixture(scope="module")
def retrained(server: Any, deployed: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], Path]:
    """The flow run of a weekly retraining that a worker carried out, and the folder of its runs."""
    runs = server.folder / "runs"
    overrides = [f"run.shard_prompts={PROMPTS_PER_SHARD}"]
    server.worker()
    run = server.run_deployment("retrain/weekly-retrain", config_path=TINY, runs=str(runs), overrides=overrides)
    ended = server.until("the retraining", lambda: found if (found := server.flow_run(run))["end_time"] else None)
    assert ended["state_name"] == "Completed", server.logs()
    return ended, runs


def test_every_deployment_is_as_the_file_says(server: Any, deployed: dict[str, dict[str, Any]]) -> None:
    wanted = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert len(wanted) == len(deployed)
    for each in wanted:
        (found,) = [deployment for name, deployment in deployed.items() if name.endswith("/" + each["name"])]
        assert found["entrypoint"] == each["entrypoint"]
        assert found["work_queue_name"] == each["work_pool"].get("work_queue_name", "default")
        if "concurrency_limit" in each:
            assert found["global_concurrency_limit"]["limit"] == each["concurrency_limit"]["limit"] == 1
            for option in ("collision_strategy", "grace_period_seconds"):
                assert found["concurrency_options"][option] == each["concurrency_limit"][option]
        else:
            assert server.queues()[found["work_queue_name"]] == 1
        crons = [(item["schedule"]["cron"], item["schedule"]["timezone"]) for item in found["schedules"]]
        assert crons == [(item["cron"], item["timezone"]) for item in each.get("schedules", [])]
        assert [item["parameters"] for item in found["schedules"]] == [
            item.get("parameters", {}) for item in each.get("schedules", [])
        ]
        assert all(item["active"] for item in found["schedules"])
        assert found["parameters"] == each["parameters"]
        assert found["job_variables"] == each["work_pool"]["job_variables"]
        assert "avpref" in found["tags"]
        (step,) = found["pull_steps"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(ROOT)


def test_a_deployed_retraining_leaves_its_result_in_the_run_folder(retrained: tuple[dict[str, Any], Path]) -> None:
    run, runs = retrained
    assert run["state_name"] == "Completed" and run["work_pool_name"] == POOL
    folder = open_run(runs)
    assert folder.settings.run.shard_prompts == PROMPTS_PER_SHARD
    assert folder.documents.read(RESULT_FILE)["gate"]["verdict"] in ("promote", "refuse")
    assert (folder.root / "report.html").exists()


def test_each_stage_is_a_subflow_and_each_shard_a_task(server: Any, retrained: tuple[dict[str, Any], Path]) -> None:
    run, runs = retrained
    stages = server.until(
        "all subflows", lambda: found if len(found := server.children(run)) == len(REPORTED) else None
    )
    assert {server.flow_name(each) for each in stages} == {stage.name for stage in REPORTED}
    assert {each["state_name"] for each in stages} == {"Completed"}
    folder = open_run(runs)
    settings, pairs = folder.settings, folder.tables.read(tables.PAIRS).to_pylist()
    assert isinstance(settings.prompts, ToyWorldPrompts)
    num_prompts, num_held_out = folder.tables.num_rows(tables.PROMPTS), settings.prompts.num_evaluation_clips
    shards = {
        "sft_clips": settings.prompts.num_sft_clips,
        "generate": num_prompts,
        "score": num_prompts,
        "audit": folder.tables.read(tables.PROMPTS)["split"].to_pylist().count(Split.TRAIN),
        "encode": len({row[side] for row in pairs for side in ("chosen", "rejected")}),
        "evaluate": num_held_out,
        "evaluate_score": num_held_out,
    }
    wanted = {f"{name}-{n}" for name, items in shards.items() for n in range(math.ceil(items / PROMPTS_PER_SHARD))}
    tasks = server.until(
        "a task run per shard", lambda: found if len(found := shard_tasks(server, stages)) >= len(wanted) else None
    )
    names = {stage["id"]: server.flow_name(stage) for stage in stages}
    of_texts = Counter(names[task["flow_run_id"]] for task in tasks if task["name"].startswith(TEXTS))
    assert set(of_texts) == {"sft", "train"}  # each encodes the distinct texts of its own samples
    wanted_of_texts = Counter(f"{TEXTS}{number}" for count in of_texts.values() for number in range(count))
    assert Counter(task["name"] for task in tasks) == Counter(wanted) + wanted_of_texts
    assert {task["state_name"] for task in tasks} == {"Completed"}


def shard_tasks(server: Any, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for task in server.of_runs("task_runs", stages) if task["task_key"].startswith("run_shard")]


def test_progress_and_tables_are_artifacts(server: Any, retrained: tuple[dict[str, Any], Path]) -> None:
    run, runs = retrained
    found = {each["key"]: each for each in server.of_runs("artifacts", [run, *server.children(run)])}
    staged = ("sft-clips", "generate", "score", "audit", "encode", "evaluate", "evaluate-score")
    progress = {f"avpref-{name}" for name in (*staged, "sft", "train")}
    progress |= {"avpref-text-states"}
    shards = {f"avpref-{name}-shards" for name in (*staged, "text-states")}
    assert {key for key, each in found.items() if each["type"] == "progress"} == progress
    assert {key for key, each in found.items() if each["type"] == "table"} == shards | {
        "avpref-pairs",
        "avpref-audits",
        "avpref-quarantine",
    }
    assert {found[key]["data"] for key in progress} == {100.0}
    folder = open_run(runs)
    rows = json.loads(found["avpref-generate-shards"]["data"])
    assert sum(row["items"] for row in rows) == folder.tables.num_rows(tables.CANDIDATES)
    assert len(json.loads(found["avpref-quarantine"]["data"])) == folder.tables.num_rows(tables.QUARANTINE)


def test_the_plain_command_reports_to_a_configured_server(server: Any, retrained: tuple[dict[str, Any], Path]) -> None:
    runs = str(server.folder / "plain")
    done = server.run("avpref", "retrain", "--config", TINY, "--runs", runs, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["gate"]["verdict"] == "promote" else 3), done.stderr
    (run,) = server.flow_runs(runs=runs)
    assert server.flow_name(run) == "retrain" and run["state_name"] == "Completed"
    stages = server.until(
        "all subflows", lambda: found if len(found := server.children(run)) == len(REPORTED) else None
    )
    assert {each["parameters"]["run_dir"] for each in stages} == {document["run_dir"]}


def test_a_run_with_an_unknown_parameter_crashes_at_once_and_its_log_names_it(
    server: Any, deployed: dict[str, dict[str, Any]]
) -> None:
    server.worker()
    run = server.run_deployment("retrain/weekly-retrain", config_pth=TINY)
    ended = server.until("the refusal", lambda: found if (found := server.flow_run(run))["end_time"] else None)
    assert ended["state_type"] == "CRASHED" and not server.children(ended)
    said = server.logs()
    assert "but was provided with parameters" in said and "config_pth" in said and "config_path" in said


def test_without_a_server_none_is_started(server: Any, retrained: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    before = len(server.flow_runs())
    _, runs = retrained
    environment = {name: value for name, value in server.environment.items() if name != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(tmp_path / "home")
    }
    command = [str(Path(sys.executable).parent / "avpref"), "retrain", "--config", TINY, "--runs", str(runs), "--json"]
    override = ["--set", f"run.shard_prompts={PROMPTS_PER_SHARD}"]
    done = subprocess.run([*command, *override], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert json.loads(done.stdout)["run_id"] == list_runs(runs)[0], done.stderr
    assert not list((tmp_path / "home").glob("prefect.db*"))
    assert "Finished in state" not in done.stderr and len(server.flow_runs()) == before
