"""Rows of a run for people and scripts: candidates with their scores, pairs with both sides. Read from sealed tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from avpref.datasets import tables
from avpref.domain import METRICS, ScoreStatus
from avpref.errors import InputError
from avpref.storage.run_folder import RunFolder

Document = dict[str, Any]

CANDIDATE_COLUMNS = (
    *("candidate_id", "prompt_id", "index", "origin", "height_px", "width_px", "num_frames", "duration_s"),
    *(metric.name for metric in METRICS),
)
"""Columns of the wide score table; it can be read back by ``avpref pairs select --scores``."""


def candidates(folder: RunFolder, prompt: str = "") -> list[Document]:
    """Candidates in the plan's order, those of the prompts whose id begins with ``prompt``."""
    rows = folder.tables.read(tables.CANDIDATES).to_pylist()
    found = [row for row in rows if row["prompt_id"].startswith(prompt)]
    if not found and prompt:
        _refuse(f"no prompt {prompt} with candidates", prompt, {row["prompt_id"] for row in rows}, "prompts list")
    return found


def candidate(folder: RunFolder, candidate_id: str) -> Document:
    """One candidate by id, or by an unambiguous beginning of one, with the text of its prompt and its scores.

    Raises InputError naming the nearest ids.
    """
    rows = candidates(folder)
    found = [row for row in rows if row["candidate_id"].startswith(candidate_id)]
    if not candidate_id or len(found) != 1:
        what = f"no candidate {candidate_id!r}" if not found else f"{candidate_id!r} may mean {len(found)} candidates"
        _refuse(what, candidate_id, {row["candidate_id"] for row in found or rows}, "candidates list")
    row = found[0]
    text = {prompt["prompt_id"]: prompt["text"] for prompt in folder.tables.read(tables.PROMPTS).to_pylist()}
    return {**row, "prompt": text[row["prompt_id"]], "scores": scores_of(folder, row["candidate_id"])}


def scores_of(folder: RunFolder, candidate_id: str) -> list[Document]:
    """Score rows of one candidate; none before the candidates were scored."""
    if not folder.tables.has(tables.SCORES):
        return []
    return [row for row in folder.tables.read(tables.SCORES).to_pylist() if row["candidate_id"] == candidate_id]


def wide_scores(folder: RunFolder, prompt: str = "") -> list[Document]:
    """One row per candidate: :data:`CANDIDATE_COLUMNS`, and ``reasons``, metric → why it has no number."""
    values: dict[str, dict[str, float]] = {}
    reasons: dict[str, dict[str, str]] = {}
    for row in folder.tables.read(tables.SCORES).to_pylist():
        if row["status"] == ScoreStatus.OK:
            values.setdefault(row["candidate_id"], {})[row["metric"]] = row["value"]
        else:
            reasons.setdefault(row["candidate_id"], {})[row["metric"]] = f"{row['status']}: {row['reason']}"
    return [
        {
            **{column: row.get(column) for column in CANDIDATE_COLUMNS},
            **values.get(row["candidate_id"], {}),
            "reasons": reasons.get(row["candidate_id"], {}),
        }
        for row in candidates(folder, prompt)
    ]


def wide_table(rows: Sequence[Document]) -> pa.Table:
    """Rows of :func:`wide_scores` as an Arrow table."""
    numbers = {metric.name: pa.float64() for metric in METRICS}
    fields = [
        pa.field(name, numbers[name] if name in numbers else tables.CANDIDATES.schema.field(name).type)
        for name in CANDIDATE_COLUMNS
    ]
    return pa.Table.from_pylist([{name: row[name] for name in CANDIDATE_COLUMNS} for row in rows], pa.schema(fields))


def pairs(folder: RunFolder, rows: pa.Table, prompt: str = "") -> list[Document]:
    """Pairs of the run as documents, in the order of the prompts and then of rank; paths relative to the run's folder."""
    prompts = folder.tables.read(tables.PROMPTS).to_pylist()
    place = {row["prompt_id"]: ordinal for ordinal, row in enumerate(prompts)}
    text = {row["prompt_id"]: row["text"] for row in prompts}
    path = {row["candidate_id"]: row["path"] for row in candidates(folder)}
    ordered = sorted(rows.to_pylist(), key=lambda row: (place[row["prompt_id"]], row["rank"]))
    found = [row for row in ordered if row["prompt_id"].startswith(prompt)]
    if not found and prompt:
        _refuse(f"no pair of prompt {prompt}", prompt, {row["prompt_id"] for row in ordered}, "pairs show")
    return [pair(row, text[row["prompt_id"]], path) for row in found]


def pair(row: Document, text: str | None, path: dict[str, str]) -> Document:
    """One row of table ``pairs`` as a document; ``path`` gives a candidate's file, where there is one."""
    return {
        "pair_id": row["pair_id"],
        "prompt_id": row["prompt_id"],
        "rank": row["rank"],
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "margins": {name: row[f"margin_{name}"] for name in ("video", "audio", "av", "total")},
        "prompt": text,
        "chosen_path": path.get(row["chosen"]),
        "rejected_path": path.get(row["rejected"]),
        "chosen_origin": row["chosen_origin"],
        "rejected_origin": row["rejected_origin"],
        "chosen_scores": {metric.name: row[f"chosen_{metric.name}"] for metric in METRICS},
        "rejected_scores": {metric.name: row[f"rejected_{metric.name}"] for metric in METRICS},
        "strategy": row["strategy"],
    }


def flat(document: Document) -> Document:
    """A pair's document as a row of a plain table."""
    return {**document, **{f"margin_{name}": value for name, value in document["margins"].items()}}


def _refuse(found: str, given: str, known: Iterable[str], listing: str) -> None:
    near = difflib.get_close_matches(given, sorted(known), n=3, cutoff=0.3) or sorted(known)[:3]
    raise InputError(found, f"an id such as {', '.join(near)}" if near else "an id of this run", f"avpref {listing}")
