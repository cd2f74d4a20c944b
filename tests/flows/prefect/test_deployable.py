"""Deployments without a server: prefect.yaml fits the flows, passing errors are tried again."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.context import FlowRunContext

from avpref.errors import CircuitOpen, ConfigError, InputError, StorageError
from avpref.flows.prefect import deployable
from avpref.flows.prefect.deployable import tried_again
from avpref.flows.prefect.run_events import GATE_PASSED

ROOT = Path(__file__).parents[3]
TREE = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {each["name"]: each for each in TREE["deployments"]}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow)
    return found


def given_in(deployment: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield deployment["parameters"]
    for each in (*deployment.get("schedules", []), *deployment.get("triggers", [])):
        yield each.get("parameters", {})


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_of_deployments_schedules_and_triggers_are_the_flows(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    flow = flow_of(deployment)
    known = inspect.signature(flow.fn).parameters
    for given in given_in(deployment):
        assert set(given) <= set(known)
    required = {key for key, parameter in known.items() if parameter.default is parameter.empty}
    assert required <= set(deployment["parameters"])
    flow.validate_parameters(dict(deployment["parameters"]))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_deployment_is_bounded(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    if deployment["work_pool"].get("work_queue_name") != "loop":  # one at a time by the queue's limit
        assert deployment["concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_limit"]["collision_strategy"] in ("ENQUEUE", "CANCEL_NEW")
    assert flow_of(deployment).timeout_seconds
    assert deployment["work_pool"]["name"] == "avpref"
    assert "avpref" in deployment["tags"], "automations choose runs by this tag"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_long_runs_hold_no_lease_that_an_outage_would_cancel(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    is_long = deployment["work_pool"].get("work_queue_name") == "loop"
    assert is_long == ("concurrency_limit" not in deployment)


def test_the_gates_event_starts_the_promotion() -> None:
    (trigger,) = DEPLOYMENTS["promote"]["triggers"]
    assert trigger["expect"] == [GATE_PASSED]


class Work:
    """Fails with the errors given, one per call, then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0
        self.waited: list[float] = []
        self.run = tried_again(self._work, wait=self.waited.append)

    def _work(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


@contextmanager
def engine() -> Iterator[None]:
    """As if Prefect's engine ran the code."""
    with FlowRunContext.model_construct(flow_run=None, flow=None):
        yield


@pytest.fixture(autouse=True)
def _no_run_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setattr(deployable, "get_run_logger", lambda: logging.getLogger("test"))


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_what_may_pass_by_itself_is_tried_again(failures: int) -> None:
    work = Work(*[StorageError("the disk is full")] * failures)
    with engine():
        assert work.run() == failures + 1
    assert work.waited == [deployable.RETRY_AFTER_S] * failures


def test_the_last_error_is_the_runs() -> None:
    work = Work(*[OSError(f"number {number}") for number in range(5)])
    with engine(), pytest.raises(OSError, match="number 2"):
        work.run()


@pytest.mark.parametrize("error", [ConfigError("a typo"), InputError("no such run"), CircuitOpen("all alike")])
def test_a_mistake_is_not_repeated(error: Exception) -> None:
    work = Work(error)
    with engine(), pytest.raises(type(error)):
        work.run()
    assert work.calls == 1


def test_the_plain_command_is_not_tried_again() -> None:
    work = Work(OSError("once"))
    with pytest.raises(OSError, match="once"):
        work.run()
    assert work.calls == 1 and not work.waited
