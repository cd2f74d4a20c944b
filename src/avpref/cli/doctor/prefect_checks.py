"""The checks of ``avpref doctor`` on a Prefect server, over plain HTTP: health, port, pools, deployments, late runs."""

from __future__ import annotations

import difflib
import json
import socket
from collections.abc import Iterator
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import yaml

from avpref.cli.doctor.check import FAIL, OK, WARN, Check

TIMEOUT_S = 3.0
DEFAULT_PORT = 4200
PROJECT_FILE, DEFAULT_POOL = Path("prefect.yaml"), "avpref"
FIRST_BAD_SQLALCHEMY = (2, 1)
NO_ANSWER = (OSError, HTTPException, ValueError)
"""Raised by requests to anything but a Prefect server: no connection, no HTTP, no JSON."""
LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


def run_checks(url: str, port: int = DEFAULT_PORT, project: Path = PROJECT_FILE) -> Iterator[Check]:
    """Check the server at ``url`` (empty: none is configured) and the local port that a server would take.

    ``project`` is the file of deployments; the server must have its work pools.
    """
    if not url:
        yield Check("prefect", OK, "no server configured; flows run without one")
    elif not is_prefect(url):
        fix = "prefect server start, or: prefect config unset PREFECT_API_URL (and unset it in the environment)"
        yield Check("prefect", FAIL, f"{url} does not answer as a Prefect server", fix)
    else:
        yield Check("prefect", OK, f"{url} is healthy")
        yield from scheduler(version("sqlalchemy"))
        yield from _pools(url, project)
        yield from _deployments(url)
        yield from _late_runs(url)
    yield _port(_local_port(url) or port)


def scheduler(sqlalchemy: str) -> Iterator[Check]:
    """A warning where a server started from this environment would never start a scheduled run."""
    if tuple(map(int, sqlalchemy.split(".")[:2])) >= FIRST_BAD_SQLALCHEMY:
        problem = f"SQLAlchemy {sqlalchemy}: with it Prefect 3.8's server makes no runs for schedules"
        yield Check(
            "prefect schedules", WARN, problem, "python -m pip install 'sqlalchemy<2.1', and start the server again"
        )


def is_prefect(url: str) -> bool:
    """Whether ``url`` (ending in ``/api``) answers its health check as Prefect does."""
    try:
        return _ask(f"{url.rstrip('/')}/health") is True
    except NO_ANSWER:
        return False


def is_taken(port: int) -> bool:
    """Whether something listens on the local ``port``."""
    with socket.socket() as probe:
        probe.settimeout(TIMEOUT_S)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _port(port: int) -> Check:
    name = "prefect port"
    if not is_taken(port):
        return Check(name, OK, f"{port} is free")
    if is_prefect(f"http://127.0.0.1:{port}/api"):
        return Check(name, OK, f"{port} is taken by a Prefect server")
    other = f"http://127.0.0.1:{port + 1}/api"
    fix = f"prefect server start --port {port + 1}, and: export PREFECT_API_URL={other}"
    return Check(name, WARN, f"{port} is taken by something else than Prefect", fix)


def _local_port(url: str) -> int | None:
    try:
        parts = urlsplit(url)
        return parts.port if parts.hostname in LOCAL else None
    except ValueError:  # the port is not a number; is_prefect has reported that already
        return None


def _pools(url: str, project: Path) -> Iterator[Check]:
    try:
        pools = _ask(f"{url.rstrip('/')}/work_pools/filter", {})
    except NO_ANSWER as error:
        yield Check("prefect pools", WARN, f"cannot be listed: {error}", "prefect work-pool ls")
        return
    idle = [pool["name"] for pool in pools if pool.get("status") == "NOT_READY"]
    missing = sorted(_pools_wanted(project) - {pool["name"] for pool in pools})
    if missing:
        fix = f"prefect work-pool create {missing[0]} --type process"
        yield Check("prefect pools", FAIL, f"{project} names work pool {', '.join(missing)}, which is not there", fix)
    elif idle:
        fix = f"prefect worker start --pool {idle[0]}"
        yield Check("prefect pools", WARN, f"no worker for work pool {', '.join(idle)}", fix)
    else:
        yield Check("prefect pools", OK, f"{len(pools)} work pools, none without a worker")


def _pools_wanted(project: Path) -> set[str]:
    """The work pools that the deployments of ``project`` need; none where it cannot be read."""
    try:
        tree = yaml.safe_load(project.read_text(encoding="utf-8"))
        pools = [deployment.get("work_pool") or {} for deployment in tree["deployments"]]
        return {pool["name"] for pool in pools if "name" in pool}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return set()


def _deployments(url: str) -> Iterator[Check]:
    """Check the deployments of this product: their work pools exist, and their flows have their parameters."""
    name = "prefect deployments"
    try:
        deployments = _ask(f"{url.rstrip('/')}/deployments/filter", {})
        ours = [deployment for deployment in deployments if str(deployment.get("entrypoint")).startswith("avpref.")]
        problems = [problem for deployment in ours for problem in _problems(deployment)]
    except (*NO_ANSWER, KeyError, TypeError, AttributeError) as error:
        yield Check(name, WARN, f"cannot be listed: {error}", "prefect deployment ls")
        return
    problems += list(_unlimited_queues(url, ours))
    if problems:
        yield from problems
    else:
        yield Check(name, OK, f"{len(ours)} deployments of avpref")


def _problems(deployment: dict[str, Any]) -> Iterator[Check]:
    name, label = "prefect deployments", deployment["name"]
    if not deployment.get("work_pool_name"):
        fix = f"prefect work-pool create {DEFAULT_POOL} --type process, then: prefect --no-prompt deploy --name {label}"
        yield Check(name, FAIL, f"{label} has no work pool, so nothing executes its runs", fix)
    known = list((deployment.get("parameter_openapi_schema") or {}).get("properties", {}))
    sources = [("", deployment["parameters"])]
    schedules = deployment.get("schedules") or []
    sources += [(_schedule_name(schedule), schedule.get("parameters") or {}) for schedule in schedules]
    for where, parameters in sources:
        for unknown in [key for key in parameters if key not in known]:
            near = difflib.get_close_matches(unknown, known, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            fix = f"correct it in {PROJECT_FILE}{meant}; its flow has: {', '.join(known)}; then prefect --no-prompt deploy --all"
            yield Check(name, FAIL, f"{label}{where} has the unknown parameter {unknown!r}", fix)


def _unlimited_queues(url: str, deployments: list[dict[str, Any]]) -> Iterator[Check]:
    """Warn of queues without a limit, whose deployments have none either: they execute any number of heavy runs at once."""
    unlimited = [row for row in deployments if not row.get("global_concurrency_limit") and row.get("work_pool_name")]
    for pool, queue in sorted({(row["work_pool_name"], row["work_queue_name"]) for row in unlimited}):
        try:
            limit = _ask(f"{url.rstrip('/')}/work_pools/{quote(pool)}/queues/{quote(queue)}")["concurrency_limit"]
        except (*NO_ANSWER, KeyError, TypeError):
            continue
        if limit is None:
            fix = f"prefect work-queue set-concurrency-limit {queue} 1 --pool {pool}"
            problem = f"work queue {queue} of pool {pool} has no limit: runs that take hours would share the machine"
            yield Check("prefect deployments", WARN, problem, fix)


def _schedule_name(schedule: dict[str, Any]) -> str:
    timing = schedule.get("schedule") or {}
    return f", schedule {schedule.get('slug') or timing.get('cron') or timing.get('interval') or '?'},"


def _late_runs(url: str) -> Iterator[Check]:
    body = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}
    try:
        count = _ask(f"{url.rstrip('/')}/flow_runs/count", body)
    except NO_ANSWER as error:
        yield Check("prefect late runs", WARN, f"cannot be counted: {error}", "prefect flow-run ls --state Late")
        return
    if count:
        yield Check("prefect late runs", WARN, f"{count} runs are late", "prefect flow-run ls --state Late")
    else:
        yield Check("prefect late runs", OK, "none")


def _ask(url: str, body: Any = None) -> Any:
    """The JSON response of ``url``; local addresses are asked without a proxy. Raises one of :data:`NO_ANSWER`."""
    data = None if body is None else json.dumps(body).encode()
    opener = build_opener(ProxyHandler({})) if urlsplit(url).hostname in LOCAL else build_opener()
    with opener.open(Request(url, data, {"Content-Type": "application/json"}), timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read())
