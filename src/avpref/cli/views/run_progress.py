"""What is done, running, missing and why: read from a run's files, with no server asked and no plan made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from avpref.datasets.rows import QuarantineRow
from avpref.observability import run_status
from avpref.observability.meters import duration, rate
from avpref.observability.run_status import Document
from avpref.storage.event_log import read_events
from avpref.storage.run_folder import RunFolder

OWNER_BYTES = 500
QUARANTINED = "quarantined"


class Condition(StrEnum):
    """How a stage stands."""

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
    """One stage of a run: whether its result is there, the rows of its table (None where it makes files), how it stands and why.

    ``since`` is when it last began (None: never, or an earlier release did it), ``by`` who ran it.
    """

    name: str
    is_done: bool
    rows: int | None
    state: str
    why: str
    since: str | None
    by: str | None


def stage_state(folder: RunFolder, found: tuple[str, bool, int | None], before: str | None, in_use: bool) -> StageState:
    """How the stage (name, whether its result is there, rows) stands; ``before`` is a stage before it that is missing."""
    name, is_done, rows = found
    document = run_status.read_document(folder.root / run_status.PROGRESS / f"{name}{run_status.STAGE_SUFFIX}")
    condition, why = _condition(document, is_done, before, in_use)
    since = moment(document["since_s"]) if document else None
    return StageState(name, is_done, rows, str(condition), why, since, document["by"] if document else None)


def _condition(document: Document | None, is_done: bool, before: str | None, in_use: bool) -> tuple[Condition, str]:
    said = document["state"] if document else None
    if said == run_status.RUNNING and in_use:
        return Condition.RUNNING, ""
    if is_done:
        return Condition.DONE, ""
    if document and said == run_status.RUNNING:
        return Condition.KILLED, f"{document['by']} began and never ended, and nobody owns the run now"
    if said == run_status.INTERRUPTED:
        return Condition.INTERRUPTED, "stopped by a signal"
    if document and said == run_status.FAILED:
        error = document["error"]
        condition = Condition.CIRCUIT_OPEN if error["is_circuit_open"] else Condition.FAILED
        return condition, f"{error['error']}: {error.get('found') or error['message']}"
    if before:
        return Condition.WAITING, f"waits for stage {before}"
    return Condition.NEXT, "nothing before it is missing"


def passes(folder: RunFolder, in_use: bool) -> list[dict[str, Any]]:
    """Every pass over units and every training, oldest first: state, counts, rate, what is left, how busy, what it took."""
    return [_pass(document, in_use) for document in run_status.documents(folder.root, run_status.UNITS_SUFFIX)]


def _pass(document: Document, in_use: bool) -> dict[str, Any]:
    measure, said = document["measure"], document["state"]
    is_running = said == run_status.RUNNING and in_use
    state = str(Condition.KILLED) if said == run_status.RUNNING and not in_use else said
    numbers = {name: value for name, value in measure.items() if name not in ("stage", "eta_s")}
    about = {"name": document["name"], "stage": document["stage"], "state": state, "by": document["by"]}
    times = {"since": moment(document["since_s"]), "as_of": moment(document["updated_s"])}
    left = {"eta_s": measure["eta_s"] if is_running else None, "age_s": time.time() - document["updated_s"]}
    return about | times | left | numbers | {"spent": document["spent"]}


def pass_rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Passes as rows for people."""
    return [
        {
            "pass": each["name"],
            "state": each["state"],
            "items": f"{each['done']}/{each['total']} {each['unit']}",
            "units": f"{each['units_done']}/{each['units_total']}" if each["units_total"] else None,
            "shards": f"{each['shards_done']}/{each['shards_total']}" if each.get("shards_total") else None,
            "rate": rate(each["rate_hz"]) if each["made"] else None,
            "left": duration(each["eta_s"]) if each["eta_s"] is not None else None,
            "busy": f"{100 * each['busy_share']:.0f} %" if each["made"] else None,
            QUARANTINED: each[QUARANTINED],
            "as of": f"{duration(each['age_s'])} ago" if each["state"] == run_status.RUNNING else None,
        }
        for each in found
    ]


def owner(root: Path) -> str:
    """Who owns the run, as its lock says."""
    with open(root / "lock", "rb") as stream:
        return stream.read(OWNER_BYTES).decode(errors="replace").strip()


def quarantined_so_far(path: Path) -> list[QuarantineRow]:
    """What stages gave up on, as the log at ``path`` has it: each candidate and stage once."""
    found: dict[tuple[str, str], QuarantineRow] = {}
    for event, _ in read_events(path, only=QUARANTINED):
        if event["event"] == QUARANTINED:
            row = QuarantineRow(**{name: event[name] for name in QuarantineRow.__dataclass_fields__})
            found.setdefault((row.candidate_id, row.stage), row)
    return list(found.values())


def moment(time_s: float) -> str:
    """A Unix time as ISO 8601, UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
