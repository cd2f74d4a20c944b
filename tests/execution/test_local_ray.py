"""A Ray that the product starts on this machine: without services that nothing uses, and with the variables of actors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from avpref.execution import ray_session
from avpref.execution.ray_session import ACTOR_ENV, UNNEEDED_SERVICES

STARTED = """
import json, os, pathlib
import ray
from avpref.config.executor_settings import RayExecutor
from avpref.execution.ray_session import ACTOR_ENV, join_ray, ray_session

def commands(parent):
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    own = [pathlib.Path(f"/proc/{child}/cmdline").read_text().replace(chr(0), " ") for child in children]
    return own + [command for child in children for command in commands(child)]

with ray_session():
    join_ray(RayExecutor(num_actors=1))
    variables = ray.remote(lambda names: {name: os.environ.get(name) for name in names}).remote(list(ACTOR_ENV))
    print(json.dumps({"variables": ray.get(variables), "commands": commands(os.getpid())}))
"""


def test_services_are_left_out_during_the_start_alone() -> None:
    from ray._private.node import Node

    before = {name: vars(Node)[name] for name in UNNEEDED_SERVICES}  # the installed version has all of them
    with pytest.raises(TimeoutError), ray_session._without_unneeded_services():
        assert not any(vars(Node)[name] is method for name, method in before.items())
        vars(Node)["start_api_server"](None, include_dashboard=False, raise_on_failure=False)
        raise TimeoutError
    assert {name: vars(Node)[name] for name in UNNEEDED_SERVICES} == before


def test_a_started_ray_runs_no_such_service_and_its_workers_have_the_variables() -> None:
    ended = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=True)
    result = json.loads(ended.stdout)
    assert result["variables"] == ACTOR_ENV
    commands = " ".join(result["commands"])
    assert "gcs_server" in commands and "raylet" in commands
    assert not any(name in commands for name in ("dashboard/dashboard.py", "/monitor.py", "log_monitor.py"))
