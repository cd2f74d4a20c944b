"""What ``avpref doctor`` asks a Prefect server, over plain HTTP: health, port, pools without a worker, late runs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from avpref.commands.findings import FAIL, OK, WARN, Check

TIMEOUT_S = 3.0
DEFAULT_PORT = 4200
NO_ANSWER = (OSError, HTTPException, ValueError)
"""What asking something else than a Prefect server may raise: no connection, no HTTP, no JSON."""
LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


def examine(url: str, port: int = DEFAULT_PORT) -> Iterator[Check]:
    """Findings about the server at ``url`` (empty: none is configured) and the local port that one would take."""
    if not url:
        yield Check("prefect", OK, "no server configured; flows run without one")
    elif not is_prefect(url):
        fix = "prefect server start, or: prefect config unset PREFECT_API_URL (and unset it in the environment)"
        yield Check("prefect", FAIL, f"{url} does not answer as a Prefect server", fix)
    else:
        yield Check("prefect", OK, f"{url} is healthy")
        yield from _pools(url)
        yield from _late_runs(url)
    yield _port(_local_port(url) or port)


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
    except ValueError:  # a port that is no number; that the server does not answer is said already
        return None


def _pools(url: str) -> Iterator[Check]:
    try:
        pools = _ask(f"{url.rstrip('/')}/work_pools/filter", {})
    except NO_ANSWER as error:
        yield Check("prefect pools", WARN, f"cannot be listed: {error}", "prefect work-pool ls")
        return
    idle = [pool["name"] for pool in pools if pool.get("status") == "NOT_READY"]
    if idle:
        fix = f"prefect worker start --pool {idle[0]}"
        yield Check("prefect pools", WARN, f"no worker for work pool {', '.join(idle)}", fix)
    else:
        yield Check("prefect pools", OK, f"{len(pools)} work pools, none without a worker")


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
    """The JSON that ``url`` answers; this machine is asked without a proxy. Raises one of :data:`NO_ANSWER`."""
    data = None if body is None else json.dumps(body).encode()
    opener = build_opener(ProxyHandler({})) if urlsplit(url).hostname in LOCAL else build_opener()
    with opener.open(Request(url, data, {"Content-Type": "application/json"}), timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read())
