"""The seam to Prefect: with a server the flows report there, without one the same functions run plainly.

Correctness never depends on Prefect: a task's state is telemetry, the run folder is the ledger. A server that goes away
in the middle of a run costs the report, not the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prefect import Flow, Task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.settings import PREFECT_API_URL

ARTIFACT_EVERY_S = 10.0


def has_server() -> bool:
    """Whether a Prefect API is configured (environment or profile)."""
    return bool(PREFECT_API_URL.value())


def call(work: Flow[..., Any] | Task[..., Any], *arguments: Any) -> Any:
    """Run a flow or task: through Prefect where there is a server, as the plain function otherwise."""
    return work(*arguments) if has_server() else work.fn(*arguments)


class StageArtifact:
    """One progress artifact per stage, updated at most every 10 s."""

    def __init__(self) -> None:
        self._ids: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, rate_hz: float) -> None:
        """Listener of :class:`avpref.logs.Progress`."""
        now = time.monotonic()
        is_due = now - self._last.get(stage, -ARTIFACT_EVERY_S) >= ARTIFACT_EVERY_S or done >= total
        if not total or not is_due:
            return
        self._last[stage] = now
        share = 100.0 * done / total
        if stage in self._ids:
            update_progress_artifact(self._ids[stage], progress=share, description=f"{done}/{total}, {rate_hz:.1f}/s")
        else:
            key = f"avpref-{stage.replace('_', '-')}"
            self._ids[stage] = create_progress_artifact(progress=share, key=key, description=f"{done}/{total}")


def listener() -> Callable[[str, int, int, float], None] | None:
    """What stages report their progress to, if there is a server."""
    return StageArtifact() if has_server() else None


def table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    """A table artifact, if there is a server."""
    if has_server():
        create_table_artifact(table=rows, key=f"avpref-{key}", description=description)
