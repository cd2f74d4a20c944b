"""The configured Prefect server, and the states and queues of reports to it. Importing it imports Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from avpref.console import say
from avpref.errors import AvprefError
from avpref.flows.prefect.delivery_queue import DeliveryQueue, Undelivered
from avpref.flows.prefect.prefect_client import PrefectReporter
from avpref.observability.meters import duration


def server_url() -> str:
    """The address of the Prefect API that the environment, a file or the active profile names; empty for none."""
    return PREFECT_API_URL.value() or ""


def require_server() -> None:
    """Raises AvprefError where no server is configured, or it does not answer."""
    url = server_url()
    if not url:
        fix = "export PREFECT_API_URL=http://127.0.0.1:4200/api, or: prefect config set PREFECT_API_URL=…"
        raise AvprefError("no Prefect server is configured", "the address of one", fix)
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        expected = "the server that PREFECT_API_URL or the Prefect profile names, or none"
        fix = "start it (prefect server start), or run without one: unset PREFECT_API_URL; prefect config unset PREFECT_API_URL"
        raise AvprefError(f"the Prefect server at {url} does not answer ({error})", expected, fix) from error


def engine_run() -> FlowRun | None:
    """The flow run of Prefect's engine that called the current code; None where it did not."""
    engine = FlowRunContext.get()
    return None if engine is None else engine.flow_run


def open_queue(adopted: Mapping[UUID, FlowRun] | None) -> DeliveryQueue:
    """A queue that reports to the server; ``adopted`` are flow runs that exist already, by their keys in messages."""
    reporter = PrefectReporter(dict(adopted) if adopted else None)
    return DeliveryQueue(reporter, heartbeat_s=PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value())


def completed(seconds: float) -> State[Any]:
    """The state of a block that ended after ``seconds``."""
    return State(type=StateType.COMPLETED, message=f"took {duration(seconds)}")


def failed(error: BaseException) -> State[Any]:
    """The state of a block that ``error`` ended."""
    name = type(error).__name__
    if isinstance(error, Exception):
        return State(type=StateType.FAILED, message=f"{name}: {error}")
    if isinstance(error, KeyboardInterrupt):
        return State(type=StateType.CANCELLED, message="interrupted")
    return State(type=StateType.CRASHED, message=name)


def say_undelivered(undelivered: Undelivered) -> None:
    """Print what was not delivered, if anything."""
    if undelivered:
        counts = f"{undelivered.waiting} not delivered, {undelivered.dropped} dropped, {undelivered.refused} refused"
        url, error = server_url(), undelivered.last_error
        say(f"reports to {url}: {counts} ({error}); the run folder is complete all the same")
