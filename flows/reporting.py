"""The seam to Prefect: with a server the flows report there, without one the same functions run plainly.

Correctness never depends on Prefect: a task's state is telemetry, the run folder is the ledger. Prefect asks a server
that goes away in the middle of a run again for some minutes; then the command ends with an error, what was finished
stays finished, and the same command goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect import Flow, Task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from avpref.errors import AvprefError
from avpref.logs import Listener
from avpref.meters import StageMeasure

ARTIFACT_EVERY_S = 10.0
TABLE_ROWS = 100
"""Rows of a table artifact; the run folder has the others."""


def has_server() -> bool:
    """Whether a Prefect API is configured (environment or profile)."""
    return bool(PREFECT_API_URL.value())


def call(work: Flow[..., Any] | Task[..., Any], *arguments: Any) -> Any:
    """Run a flow or task: through Prefect where there is a server, as the plain function otherwise.

    Raises AvprefError where the configured server does not answer, or stops answering.
    """
    if not has_server():
        return work.fn(*arguments)
    if _is_in_flow():
        return work(*arguments)
    with _answering_server():
        return work(*arguments)


class StageArtifact:
    """One progress artifact per stage, updated at most every 10 s."""

    def __init__(self) -> None:
        self._ids: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    def __call__(self, measure: StageMeasure) -> None:
        """Listener of :class:`avpref.logs.Progress`."""
        now, stage, done, total = time.monotonic(), measure.stage, measure.done, measure.total
        is_due = now - self._last.get(stage, -ARTIFACT_EVERY_S) >= ARTIFACT_EVERY_S or done >= total
        if not total or not is_due:
            return
        self._last[stage] = now
        share = 100.0 * done / total
        if stage in self._ids:
            update_progress_artifact(self._ids[stage], progress=share, description=measure.text)
        else:
            self._ids[stage] = create_progress_artifact(progress=share, key=_key(stage), description=measure.text)


def listener() -> Listener | None:
    """What stages report their progress to, if they run as flows."""
    return StageArtifact() if _is_in_flow() else None


def table(name: str, rows: list[dict[str, Any]], description: str) -> None:
    """A table artifact of the first rows, inside a flow that reports to a server; nothing otherwise."""
    if _is_in_flow():
        create_table_artifact(table=rows[:TABLE_ROWS], key=_key(name), description=description)


def _key(name: str) -> str:
    """An artifact's key: Prefect takes lower-case letters, digits and dashes."""
    return f"avpref-{name.replace('_', '-')}"


def _is_in_flow() -> bool:
    return FlowRunContext.get() is not None


@contextmanager
def _answering_server() -> Iterator[None]:
    failure = get_client(sync_client=True).api_healthcheck()
    if failure is not None:
        raise _no_answer(failure) from failure
    try:
        yield
    except httpx.HTTPError as error:
        raise _no_answer(error) from error


def _no_answer(error: Exception) -> AvprefError:
    found = f"the Prefect server at {PREFECT_API_URL.value()} does not answer ({error})"
    expected = "the server that PREFECT_API_URL or the Prefect profile names, or none"
    fix = "start it (prefect server start), or run without one: unset PREFECT_API_URL; prefect config unset PREFECT_API_URL"
    return AvprefError(found, expected, fix)
