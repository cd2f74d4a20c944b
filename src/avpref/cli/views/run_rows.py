"""Rows of a run's sealed tables for people and scripts: prompts, candidates with their scores, pairs with both sides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from avpref.datasets import tables
from avpref.datasets.table_files import check_format, write_table
from avpref.domain import METRICS, ScoreStatus
from avpref.errors import InputError
from avpref.storage.local_files import replace
from avpref.storage.run_folder import RunFolder

Document = dict[str, Any]

CANDIDATE_COLUMNS = (
    *("candidate_id", "prompt_id", "index", "origin", "height_px", "width_px", "num_frames", "duration_s"),
    *(metric.name for metric in METRICS),
)
"""Columns of the wide score table; ``avpref pairs select --scores`` reads it back."""


def prompts(folder: RunFolder) -> list[Document]:
    """The prompts in their order."""
    return folder.tables.read(tables.PROMPTS).to_pylist()


def candidates(folder: RunFolder, prompt: str = "") -> list[Document]:
    """Candidates in the plan's order, of the prompts whose id begins with ``prompt``. Raises InputError where there are none."""
    rows = folder.tables.read(tables.CANDIDATES).to_pylist()
    matching = [row for row in rows if row["prompt_id"].startswith(prompt)]
    if not matching and prompt:
        _refuse(f"no prompt {prompt} with candidates", prompt, {row["prompt_id"] for row in rows}, "prompts list")
    return matching


def candidate(folder: RunFolder, candidate_id: str) -> Document:
    """One candidate by id, or by an unambiguous prefix of one, with the text of its prompt and its scores.

    Raises InputError naming the nearest ids.
    """
    rows = candidates(folder)
    matching = [row for row in rows if row["candidate_id"].startswith(candidate_id)]
    if not candidate_id or len(matching) != 1:
        several = f"{candidate_id!r} may mean {len(matching)} candidates"
        reason = several if matching else f"no candidate {candidate_id!r}"
        _refuse(reason, candidate_id, {row["candidate_id"] for row in matching or rows}, "candidates list")
    row = matching[0]
    text = {prompt["prompt_id"]: prompt["text"] for prompt in prompts(folder)}
    return {**row, "prompt": text[row["prompt_id"]], "scores": scores_of(folder, row["candidate_id"])}


def scores_of(folder: RunFolder, candidate_id: str) -> list[Document]:
    """Score rows of one candidate; none before the stage ``score``."""
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


def write_wide_scores(folder: RunFolder, path: Path) -> int:
    """Write the wide score table to ``path`` (.csv or .parquet); returns its number of rows. Raises ConfigError, InputError."""
    check_format(path)
    rows = wide_scores(folder)
    write_table(path, wide_table(rows), replace)
    return len(rows)


def sealed_pairs(folder: RunFolder, prompt: str = "") -> list[Document]:
    """The run's own pairs as :func:`pairs`."""
    return pairs(folder, folder.tables.read(tables.PAIRS), prompt)


def pairs(folder: RunFolder, rows: pa.Table, prompt: str = "") -> list[Document]:
    """Pairs of the run as documents, in the order of the prompts and then of rank; paths relative to the run's folder."""
    texts = prompts(folder)
    order = {row["prompt_id"]: index for index, row in enumerate(texts)}
    text = {row["prompt_id"]: row["text"] for row in texts}
    path = {row["candidate_id"]: row["path"] for row in candidates(folder)}
    ordered = sorted(rows.to_pylist(), key=lambda row: (order[row["prompt_id"]], row["rank"]))
    matching = [row for row in ordered if row["prompt_id"].startswith(prompt)]
    if not matching and prompt:
        _refuse(f"no pair of prompt {prompt}", prompt, {row["prompt_id"] for row in ordered}, "pairs show")
    return [pair(row, text[row["prompt_id"]], path) for row in matching]


def pair(row: Document, text: str | None, path: dict[str, str]) -> Document:
    """One row of table ``pairs`` as a document; ``path`` maps candidates to their files."""
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


def _refuse(found: str, asked: str, known: Iterable[str], listing: str) -> NoReturn:
    near = difflib.get_close_matches(asked, sorted(known), n=3, cutoff=0.3) or sorted(known)[:3]
    raise InputError(found, f"an id such as {', '.join(near)}" if near else "an id of this run", f"avpref {listing}")
