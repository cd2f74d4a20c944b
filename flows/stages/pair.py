"""Stage ``pair``: norms, rewards, pairs and skipped prompts, as SQL over the score table."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from avpref.console import say
from avpref.datasets import tables, views
from avpref.datasets.selection import normalise, pairing
from avpref.domain import Split
from avpref.errors import InputError
from avpref.execution.item_counts import Tally, record
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.workers.scorers import metrics_of
from avpref.identity import digest
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_folder import RunFolder, list_runs, open_root

SEALED = (tables.NORMS, tables.REWARDS, tables.SKIPPED, tables.EXCLUDED, tables.PAIRS)
"""What the stage leaves."""


@reporting.stage("pair")
def pair(run_dir: str) -> int:
    """Select the pairs of the run in ``run_dir`` and seal norms, rewards, pairs and skipped; returns the number of pairs."""
    folder = open_root(Path(run_dir))
    fingerprint = _fingerprint(folder)
    is_new = not all(folder.is_sealed(table, fingerprint) for table in SEALED)
    if is_new:
        _seal(folder, fingerprint, select(folder))
    _require_pairs(folder)
    num_pairs = folder.num_rows(tables.PAIRS)
    found = Tally("pair", "pairs", made=num_pairs) if is_new else Tally("pair", "pairs", present=num_pairs)
    record(folder.events, found)
    reporting.table("pairs", _reasons(folder), "prompts without a pair, by reason")
    return num_pairs


def select(folder: RunFolder) -> pairing.Selection:
    """Apply the run's strategy to its sealed scores. Held-out prompts take no part, in the norm neither."""
    con = training_tables(folder)
    metrics = metrics_of(folder.settings.scoring)
    norm = saved_norm(folder, folder.settings.pairs.norm) if folder.settings.pairs.norm else None
    selection = pairing.select_pairs(
        con, folder.settings.pairs, metrics, norm or normalise.measure(con, folder.run_id, metrics)
    )
    for warning in selection.warnings:
        say(f"pair: {warning}")
    return selection


def training_tables(folder: RunFolder) -> duckdb.DuckDBPyConnection:
    """DuckDB over prompts, candidates and scores of the training split alone, read from their files as they are needed."""
    for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES):
        folder.require(table)
    match folder.tables.files:
        case LocalFiles():
            con = folder.connect()
            con.execute(views.sql("training_views"))
            return con
        case _:
            return _training_rows(folder)


def _training_rows(folder: RunFolder) -> duckdb.DuckDBPyConnection:
    """As :func:`training_tables`, of tables that are brought into memory."""
    prompts = folder.read(tables.PROMPTS)
    prompts = prompts.filter(pc.field("split") == str(Split.TRAIN))
    candidates = folder.read(tables.CANDIDATES)
    candidates = candidates.filter(pc.is_in(candidates["prompt_id"], prompts["prompt_id"].combine_chunks()))
    scores = folder.read(tables.SCORES)
    scores = scores.filter(pc.is_in(scores["candidate_id"], candidates["candidate_id"].combine_chunks()))
    return views.connect_tables({"prompts": prompts, "candidates": candidates, "scores": scores})


def read_norm(folder: RunFolder) -> normalise.Norm:
    """The norm that the run's pairs were selected with. Raises InputError before the stage has run."""
    saved = folder.read(tables.NORMS)
    return normalise.from_arrow(saved, saved["norm_id"][0].as_py())


def saved_norm(folder: RunFolder, norm_id: str) -> normalise.Norm:
    """The norm of that id out of any run beside this one. Raises InputError where no run has it."""
    runs = folder.root.parent
    for run in list_runs(runs):
        other = open_root(runs / run)
        saved = other.read(tables.NORMS) if other.has(tables.NORMS) else None
        if saved is not None and norm_id in saved["norm_id"].to_pylist():
            return normalise.from_arrow(saved, norm_id)
    raise InputError(
        f"no run in {runs} has a norm {norm_id}", "the norm_id of a run's norms table", "--set pairs.norm=''"
    )


def _fingerprint(folder: RunFolder) -> str:
    parts = [folder.tables.current(table.name) for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES)]
    sealed = [part.version if part else "" for part in parts]
    names = [metric.name for metric in metrics_of(folder.settings.scoring)]
    return folder.fingerprint("pair", sealed, names, folder.settings.pairs.model_dump(mode="json"))


def _seal(folder: RunFolder, fingerprint: str, selection: pairing.Selection) -> None:
    """Pairs last: their seal says that the others are there."""
    folder.seal(tables.NORMS, fingerprint, selection.norm.to_arrow())
    folder.seal(tables.REWARDS, fingerprint, selection.rewards)
    folder.seal(tables.SKIPPED, fingerprint, selection.skipped)
    folder.seal(tables.EXCLUDED, fingerprint, selection.excluded)
    folder.seal(tables.PAIRS, fingerprint, selection.pairs)


def _require_pairs(folder: RunFolder) -> None:
    if folder.num_rows(tables.PAIRS):
        return
    reasons = ", ".join(f"{row['reason']}: {row['prompts']}" for row in _reasons(folder))
    fix = "sample more candidates (--set sampling.num_candidates=5), or relax pairs.strategy or pairs.min_margin"
    raise InputError(f"no prompt gave a pair ({reasons})", "at least one pair", fix)


def _reasons(folder: RunFolder) -> list[dict[str, object]]:
    counts = pc.value_counts(folder.read(tables.SKIPPED)["reason"]).to_pylist()
    return sorted(
        ({"reason": row["values"], "prompts": row["counts"]} for row in counts), key=lambda row: str(row["reason"])
    )


def pairs_hash(folder: RunFolder) -> str:
    """Content hash of the pair table: equal for equal pairs, margins and scores, in whatever run their norm was measured."""
    return content_hash(folder.read(tables.PAIRS))


def content_hash(pairs: pa.Table) -> str:
    """See :func:`pairs_hash`; of rows that need not be sealed."""
    return digest("pairs", pairs.drop_columns("norm_id").to_pylist(), size=32)
