"""The overview of a run, finished or not: stages, tables and the reasons of absent ones, distributions, curves, and the gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from avpref.domain import dimensions_of
from avpref.explorer.charts import histogram, line_chart
from avpref.explorer.distributions import Column, distributions_of
from avpref.explorer.opened_runs import OpenedRun
from avpref.explorer.selection_views import metrics_of_run
from avpref.explorer.wide_tables import REWARD
from avpref.observability.status_documents import RUNNING, read_stage
from avpref.storage.documents import RESULT_FILE, VERDICT_FILE
from avpref.storage.lock import is_in_use
from avpref.storage.run_folder import RunFolder
from avpref.trainer.metrics import METRICS_FILE

STAGES = ("prompts", "sft", "generate", "score", "pair", "audit", "train", "evaluate", "report")
CURVES = {
    "loss": ("loss",),
    "displacement": ("displacement_video", "displacement_audio"),
    "implicit accuracy": ("implicit_accuracy_video", "implicit_accuracy_audio"),
    "drift": ("drift_video", "drift_audio"),
}
"""Drawings of a training: title → columns of its metric file."""
TABLE_OF_STAGE = {
    **{"prompts": "prompts", "generate": "candidates", "score": "scores"},
    **{"pair": "pairs", "audit": "audits", "evaluate": "evaluations"},
}
"""The table that shows a stage to be finished where its status was lost, as in a copy of a run."""
NEVER_SEALED = frozenset({"differences", "leaderboard", "strategy_overlaps"})
"""Tables of commands, which no run has."""
KILLED = "stopped: its process ended without a word"


@dataclass(frozen=True)
class StageRow:
    """A stage of the loop: its state and, where it failed, the error and the command that helps."""

    name: str
    state: str
    message: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Drawing:
    """A titled drawing; ``note`` says what it shows."""

    title: str
    note: str
    drawing: Markup = field(repr=False)


@dataclass(frozen=True)
class Overview:
    """Everything on the page of a run. Sections without data are empty."""

    run_id: str
    state: str
    stages: tuple[StageRow, ...]
    tables: tuple[tuple[str, int], ...]
    absent: tuple[tuple[str, str], ...]
    verdict: str
    rules: tuple[Mapping[str, Any], ...]
    numbers: tuple[Drawing, ...]
    curves: tuple[Drawing, ...]
    norms: tuple[Mapping[str, Any], ...]
    norm_id: str
    rounds: tuple[Mapping[str, Any], ...]


def overview_of(run: OpenedRun) -> Overview:
    """The overview of ``run``. Raises StorageError where its store cannot be reached."""
    database, folder = run.database, run.folder
    con = database.cursor()
    names = [name for name, _ in database.versions]
    reasons = {absence.table: absence.reason for absence in database.absent}
    absent = tuple((name, reason) for name, reason in reasons.items() if name not in NEVER_SEALED)
    counted = [name for name in names if name not in reasons]
    counts = tuple((name, (con.execute(f"SELECT count(*) FROM {name}").fetchone() or (0,))[0]) for name in counted)
    document = folder.documents.read(VERDICT_FILE) or {}
    gate = document.get("gate", {})
    norms = con.execute("SELECT * FROM norms")
    columns = [column[0] for column in norms.description or ()]
    norm_rows = tuple(dict(zip(columns, row, strict=True)) for row in norms.fetchall())
    return Overview(
        run.run_id,
        state_of(folder),
        tuple(_stages(folder)),
        counts,
        absent,
        str(gate.get("verdict", "")),
        tuple(gate.get("rules", ())),
        tuple(_numbers(run)),
        tuple(_curves(folder)),
        norm_rows,
        str(norm_rows[0]["norm_id"]) if norm_rows else "",
        tuple((folder.documents.read(RESULT_FILE) or {}).get("rounds", ())),
    )


def state_of(folder: RunFolder) -> str:
    """ "in use", "finished" or "not finished"."""
    if is_in_use(folder.root):
        return "in use"
    return "finished" if folder.files.exists(RESULT_FILE) else "not finished"


def _stages(folder: RunFolder) -> list[StageRow]:
    rows, in_use = [], is_in_use(folder.root)
    for name in STAGES:
        status = read_stage(folder.root, name)
        if status is None:
            is_sealed = name in TABLE_OF_STAGE and folder.tables.current(TABLE_OF_STAGE[name]) is not None
            rows.append(StageRow(name, "finished" if is_sealed else "not begun"))
        elif status.state == RUNNING and not in_use:
            rows.append(StageRow(name, KILLED, fix=f"avpref runs resume {folder.run_id} --runs {folder.runs}"))
        elif status.error is not None:
            rows.append(StageRow(name, status.state, status.error.message, status.error.fix or ""))
        else:
            rows.append(StageRow(name, status.state))
    return rows


def _numbers(run: OpenedRun) -> list[Drawing]:
    database = run.database
    known = {str(row[0]) for row in database.cursor().execute("DESCRIBE clip_rows").fetchall()}
    metrics = metrics_of_run(run)
    dimensions = dimensions_of(metrics)
    columns = [Column("clip_rows", metric.name, True) for metric in metrics if metric.name in known]
    columns += [Column("clip_rows", REWARD + name, True) for name in dimensions if REWARD + name in known]
    columns += [
        Column("pair_rows", name) for name in (*(f"margin_{dimension}" for dimension in dimensions), "margin_total")
    ]
    units = {metric.name: metric.unit for metric in metrics}
    drawings = []
    for distribution in distributions_of(database, columns):
        values = distribution.values
        if len(values):
            note = f"{len(values):,} values, {units.get(distribution.name, 'reward')}, median {values[len(values) // 2]:.4g}"
            title = distribution.name.replace(REWARD, "reward: ").replace("margin_", "margin: ")
            drawings.append(Drawing(title, note, histogram(values, (), f"{title}: {note}")))
    return drawings


def _curves(folder: RunFolder) -> list[Drawing]:
    """Curves of the newest DPO training, read from the run's folder on this machine."""
    paths = sorted(folder.root.glob(f"models/dpo-*/{METRICS_FILE}"), key=lambda path: path.stat().st_mtime)
    if not paths:
        return []
    rows = _whole_lines(paths[-1].read_text(encoding="utf-8"))
    drawings = []
    for title, columns in CURVES.items():
        series = [(_colour(name), [row[name] for row in rows if name in row]) for name in columns]
        if any(values for _, values in series):
            note = " and ".join(name.replace("_", " ") for name in columns) + f" over {len(rows)} steps"
            drawings.append(Drawing(title, note, line_chart(series, f"{title}: {note}")))
    return drawings


def _whole_lines(text: str) -> Sequence[Mapping[str, float]]:
    """The rows of a metric file; the last line of a running training may be half written and is left out."""
    lines = text.split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _colour(column: str) -> str:
    return "second" if column.endswith("_audio") else "first"
