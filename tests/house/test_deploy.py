"""The example for Kubernetes fits what the executor asks for, the lock, and the settings' schema."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpref.config.executor_settings import RayExecutor
from avpref.config.loading import load_config

ROOT = Path(__file__).parents[2]
SHARED = "/shared"


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def words(parts: dict[str, Any]) -> list[str]:
    return shlex.split(parts["RayJob"]["spec"]["entrypoint"])


@pytest.fixture(scope="module")
def executor(words: list[str]) -> RayExecutor:
    """The executor that the job's flags come to."""
    given = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    found = load_config(ROOT / "configs" / "tiny.yaml", given, {}).settings.executor
    assert isinstance(found, RayExecutor)
    return found


def containers(parts: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = parts["RayJob"]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_workers_have_room_for_every_actor(parts: dict[str, Any], executor: RayExecutor) -> None:
    (workers,) = parts["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    room = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus, cpus = float(room["nvidia.com/gpu"]), float(room["cpu"])
    assert executor.num_gpus_per_actor <= gpus and cpus >= 1
    per_worker = min(cpus, gpus / executor.num_gpus_per_actor)
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert executor.num_actors <= workers["replicas"] * per_worker


def test_the_head_runs_the_command_and_no_actor(parts: dict[str, Any], executor: RayExecutor) -> None:
    head = parts["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert executor.address == ""  # the operator sets RAY_ADDRESS for the job, and a configured address would win


def test_versions_are_those_of_the_lock(parts: dict[str, Any]) -> None:
    locked = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert parts["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == locked["ray"]
    recipe = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "-r requirements.lock" in recipe and "-r requirements-torch-${TORCH}.lock" in recipe
    assert re.search(r"^FROM python:3\.11", recipe, re.MULTILINE)


def test_everyone_has_one_image_one_environment_and_one_folder(parts: dict[str, Any], words: list[str]) -> None:
    assert len({container["image"] for container in containers(parts)}) == 1
    assert all("@sha256:" in container["image"] for container in containers(parts))
    for container in containers(parts):
        assert container["envFrom"] == [{"configMapRef": {"name": parts["ConfigMap"]["metadata"]["name"]}}]
        assert SHARED in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert words[words.index("--runs") + 1].startswith(f"{SHARED}/")
    assert words[words.index("--config") + 1].startswith(f"{SHARED}/")
    assert "ReadWriteMany" in parts["PersistentVolumeClaim"]["spec"]["accessModes"]


def test_nothing_reports_home_and_strangers_need_the_token(parts: dict[str, Any]) -> None:
    environment = parts["ConfigMap"]["data"]
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert (environment["DO_NOT_TRACK"], environment["RAY_USAGE_STATS_ENABLED"]) == ("1", "0")
    assert parts["RayJob"]["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"
