"""Rows of a run's sealed tables for people and scripts: prompts, candidates with their scores, pairs with both sides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from avpref.datasets import tables
from avpref.datasets.metric_tables import metrics_of_table
from avpref.datasets.table_files import check_format, write_table
from avpref.domain import METRIC_BY_NAME, Metric, ScoreStatus, dimensions_of
from avpref.errors import InputError
from avpref.storage.local_files import replace
from avpref.storage.run_folder import RunFolder

Document = dict[str, Any]

CANDIDATE_COLUMNS = (
    *("candidate_id", "prompt_id", "index", "origin", "height_px", "width_px", "num_frames", "duration_s"),
)
"""First columns of the wide score table; the metrics follow. ``avpref pairs select --scores`` reads it back."""


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


def metric_names(folder: RunFolder) -> list[str]:
    """The metrics that enter the run's rewards, those of the paper first: the listed ones, or those of the paper."""
    listed = folder.settings.scoring.metrics or tuple(METRIC_BY_NAME)
    return _published_first(listed)


def computed_names(folder: RunFolder) -> list[str]:
    """The metrics in the run's score table and those that enter rewards, those of the paper first."""
    computed = pc.unique(folder.tables.read(tables.SCORES)["metric"]).to_pylist()
    return _published_first([*metric_names(folder), *computed])


def _published_first(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*(name for name in METRIC_BY_NAME if name in names), *names]))


def wide_scores(folder: RunFolder, prompt: str = "") -> list[Document]:
    """One row per candidate: :data:`CANDIDATE_COLUMNS`, :func:`metric_names`, every other metric that has a number, and
    ``reasons``, metric → why it has no number."""
    columns = [*CANDIDATE_COLUMNS, *metric_names(folder)]
    values: dict[str, dict[str, float]] = {}
    reasons: dict[str, dict[str, str]] = {}
    for row in folder.tables.read(tables.SCORES).to_pylist():
        if row["status"] == ScoreStatus.OK:
            values.setdefault(row["candidate_id"], {})[row["metric"]] = row["value"]
        else:
            reasons.setdefault(row["candidate_id"], {})[row["metric"]] = f"{row['status']}: {row['reason']}"
    return [
        {
            **{column: row.get(column) for column in columns},
            **values.get(row["candidate_id"], {}),
            "reasons": reasons.get(row["candidate_id"], {}),
        }
        for row in candidates(folder, prompt)
    ]


def wide_table(rows: Sequence[Document], metrics: Sequence[str]) -> pa.Table:
    """Rows of :func:`wide_scores` as an Arrow table with a column for each of ``metrics``."""
    fields = [tables.CANDIDATES.schema.field(name) for name in CANDIDATE_COLUMNS]
    fields += [pa.field(name, pa.float64()) for name in metrics]
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in fields]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def write_wide_scores(folder: RunFolder, path: Path) -> int:
    """Write the wide score table to ``path`` (.csv or .parquet); returns its number of rows. Raises ConfigError, InputError."""
    check_format(path)
    rows = wide_scores(folder)
    write_table(path, wide_table(rows, computed_names(folder)), replace)
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
    metrics = metrics_of_table(rows)
    return [pair(row, metrics, text[row["prompt_id"]], path) for row in matching]


def pair(row: Document, metrics: Sequence[Metric], text: str | None, path: dict[str, str]) -> Document:
    """One row of table ``pairs`` of these metrics as a document; ``path`` maps candidates to their files."""
    return {
        "pair_id": row["pair_id"],
        "prompt_id": row["prompt_id"],
        "rank": row["rank"],
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "margins": {name: row[f"margin_{name}"] for name in (*dimensions_of(metrics), "total")},
        "dimension": row["dimension"],
        "prompt": text,
        "chosen_path": path.get(row["chosen"]),
        "rejected_path": path.get(row["rejected"]),
        "chosen_origin": row["chosen_origin"],
        "rejected_origin": row["rejected_origin"],
        "chosen_scores": {metric.name: row[f"chosen_{metric.name}"] for metric in metrics},
        "rejected_scores": {metric.name: row[f"rejected_{metric.name}"] for metric in metrics},
        "strategy": row["strategy"],
    }


def _refuse(found: str, asked: str, known: Iterable[str], listing: str) -> NoReturn:
    near = difflib.get_close_matches(asked, sorted(known), n=3, cutoff=0.3) or sorted(known)[:3]
    raise InputError(found, f"an id such as {', '.join(near)}" if near else "an id of this run", f"avpref {listing}")
