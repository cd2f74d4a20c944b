"""The state of stages and passes, read from a run's files alone, without a server and without planning."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from avpref.datasets.rows import QuarantineRow
from avpref.observability import status_documents
from avpref.observability.meters import duration, rate
from avpref.observability.status_documents import FAILED, INTERRUPTED, RUNNING, PassStatus, StageStatus
from avpref.storage.event_log import read_events
from avpref.storage.run_folder import RunFolder

OWNER_BYTES = 500
QUARANTINED = "quarantined"


class Condition(StrEnum):
    """The state of a stage."""

    DONE = "done"
    RUNNING = "running"
    KILLED = "killed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    CIRCUIT_OPEN = "circuit open"
    NEXT = "not started"
    WAITING = "waiting"


@dataclass(frozen=True)
class StageState:
    """One stage of a run: whether it has a result, the number of rows of its table (None where it makes files), its state and why.

    ``since`` is the time of its last start (None: never, or by an earlier release), ``by`` the process that ran it.
    """

    name: str
    is_done: bool
    rows: int | None
    state: str
    why: str
    since: str | None
    by: str | None


def stage_state(
    folder: RunFolder, result: tuple[str, bool, int | None], first_missing: str | None, in_use: bool
) -> StageState:
    """The state of the stage of ``result`` (name, whether it has one, rows); ``first_missing`` is an earlier missing stage."""
    name, is_done, rows = result
    status = status_documents.read_stage(folder.root, name)
    condition, why = _condition(status, is_done, first_missing, in_use)
    since = moment(status.since_s) if status else None
    return StageState(name, is_done, rows, str(condition), why, since, status.by if status else None)


def _condition(
    status: StageStatus | None, is_done: bool, first_missing: str | None, in_use: bool
) -> tuple[Condition, str]:
    recorded = status.state if status else None
    if recorded == RUNNING and in_use:
        return Condition.RUNNING, ""
    if is_done:
        return Condition.DONE, ""
    if status and recorded == RUNNING:
        return Condition.KILLED, f"{status.by} began and never ended, and no command owns the run now"
    if recorded == INTERRUPTED:
        return Condition.INTERRUPTED, "stopped by a signal"
    if status and status.error and recorded == FAILED:
        error = status.error
        condition = Condition.CIRCUIT_OPEN if error.is_circuit_open else Condition.FAILED
        return condition, f"{error.error}: {error.found or error.message}"
    if first_missing:
        return Condition.WAITING, f"waits for stage {first_missing}"
    return Condition.NEXT, "nothing before it is missing"


def passes(folder: RunFolder, in_use: bool) -> list[dict[str, Any]]:
    """Every pass over units and every training, oldest first: state, counts, rate, time left, utilisation, cost."""
    return [_pass(status, in_use) for status in status_documents.read_passes(folder.root)]


def _pass(status: PassStatus, in_use: bool) -> dict[str, Any]:
    is_running = status.state == RUNNING and in_use
    state = str(Condition.KILLED) if status.state == RUNNING and not in_use else status.state
    numbers = {name: value for name, value in status.measure.document().items() if name not in ("stage", "eta_s")}
    about = {"name": status.name, "stage": status.stage, "state": state, "by": status.by}
    times = {"since": moment(status.since_s), "as_of": moment(status.updated_s)}
    estimates = {"eta_s": status.measure.eta_s if is_running else None, "age_s": time.time() - status.updated_s}
    return about | times | estimates | numbers | {"spent": asdict(status.spent)}


def pass_rows(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Passes as rows for people."""
    return [
        {
            "pass": row["name"],
            "state": row["state"],
            "items": f"{row['done']}/{row['total']} {row['unit']}",
            "units": f"{row['units_done']}/{row['units_total']}" if row["units_total"] else None,
            "shards": f"{row['shards_done']}/{row['shards_total']}" if row.get("shards_total") else None,
            "rate": rate(row["rate_hz"]) if row["made"] else None,
            "left": duration(row["eta_s"]) if row["eta_s"] is not None else None,
            "busy": f"{100 * row['busy_share']:.0f} %" if row["made"] else None,
            QUARANTINED: row[QUARANTINED],
            "as of": f"{duration(row['age_s'])} ago" if row["state"] == RUNNING else None,
        }
        for row in measured
    ]


def owner(root: Path) -> str:
    """The owner of the run, as its lock file names it."""
    with open(root / "lock", "rb") as stream:
        return stream.read(OWNER_BYTES).decode(errors="replace").strip()


def quarantined_so_far(path: Path) -> list[QuarantineRow]:
    """The quarantined candidates in the log at ``path``; each candidate and stage once."""
    rows: dict[tuple[str, str], QuarantineRow] = {}
    for event, _ in read_events(path, only=QUARANTINED):
        if event["event"] == QUARANTINED:
            row = QuarantineRow(**{name: event[name] for name in QuarantineRow.__dataclass_fields__})
            rows.setdefault((row.candidate_id, row.stage), row)
    return list(rows.values())


def moment(time_s: float) -> str:
    """A Unix time as ISO 8601, UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
