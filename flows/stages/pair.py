"""Stage ``pair``: norms, rewards, pairs and skipped prompts, as SQL over the score table."""

from __future__ import annotations

import duckdb
import pyarrow.compute as pc

from avpref.console import say
from avpref.datasets import tables, views
from avpref.datasets.selection import normalise, pairing
from avpref.domain import Split
from avpref.errors import InputError
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.workers.scorers import metrics_of
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_folder import RunFolder, list_runs, open_root

SEALED = (tables.NORMS, tables.REWARDS, tables.SKIPPED, tables.EXCLUDED, tables.PAIRS)
"""The tables that the stage writes."""


@reporting.stage("pair")
def pair(run: Run) -> StageCounts:
    """Select the pairs of the run and seal norms, rewards, pairs and skipped; the rows are pairs."""
    fingerprint = _fingerprint(run)
    is_new = not all(run.tables.is_sealed(table, fingerprint) for table in SEALED)
    if is_new:
        _seal(run, fingerprint, select(run))
    _require_pairs(run)
    num_pairs = run.tables.num_rows(tables.PAIRS)
    made, present = (num_pairs, 0) if is_new else (0, num_pairs)
    counts = ItemCounts("pair", "pairs", made, present)
    log_counts(run.events, counts)
    reporting.table("pairs", _reasons(run), "prompts without a pair, by reason")
    return StageCounts(num_pairs, (counts,))


def select(run: RunFolder) -> pairing.Selection:
    """Apply the run's strategy to its sealed scores. Held-out prompts are left out, of the norm too.

    Raises InputError where ``pairs.norm`` names a norm that no run has, TableError for a damaged table.
    """
    con = training_tables(run)
    metrics = metrics_of(run.settings.scoring, run.settings.executor)
    norm = saved_norm(run, run.settings.pairs.norm) if run.settings.pairs.norm else None
    selection = pairing.select_pairs(
        con, run.settings.pairs, metrics, norm or normalise.measure(con, run.run_id, metrics)
    )
    for warning in selection.warnings:
        say(f"pair: {warning}")
    return selection


def training_tables(run: RunFolder) -> duckdb.DuckDBPyConnection:
    """DuckDB over the training split of prompts, candidates and scores. Local tables are read from their files on demand.

    Raises InputError where a table does not exist yet.
    """
    for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES):
        run.tables.require(table)
    match run.tables.store.files:
        case LocalFiles():
            con = run.tables.connect()
            con.execute(views.sql("training_views"))
            return con
        case _:
            return _training_rows(run)


def _training_rows(run: RunFolder) -> duckdb.DuckDBPyConnection:
    """As :func:`training_tables`, for tables outside the local file system: they are loaded into memory."""
    prompts = run.tables.read(tables.PROMPTS)
    prompts = prompts.filter(pc.field("split") == str(Split.TRAIN))
    candidates = run.tables.read(tables.CANDIDATES)
    candidates = candidates.filter(pc.is_in(candidates["prompt_id"], prompts["prompt_id"].combine_chunks()))
    scores = run.tables.read(tables.SCORES)
    scores = scores.filter(pc.is_in(scores["candidate_id"], candidates["candidate_id"].combine_chunks()))
    return views.connect_tables({"prompts": prompts, "candidates": candidates, "scores": scores})


def saved_norm(run: RunFolder, norm_id: str) -> normalise.Norm:
    """The norm ``norm_id`` of any run in the same folder of runs. Raises InputError where no run has it."""
    runs = run.runs
    for name in list_runs(runs):
        other = open_root(runs / name)
        saved = other.tables.read(tables.NORMS) if other.tables.has(tables.NORMS) else None
        if saved is not None and norm_id in saved["norm_id"].to_pylist():
            return normalise.from_arrow(saved, norm_id)
    raise InputError(
        f"no run in {runs} has a norm {norm_id}", "the norm_id of a run's norms table", "--set pairs.norm=''"
    )


def _fingerprint(run: Run) -> str:
    manifests = [run.tables.current(table.name) for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES)]
    sealed = [manifest.version if manifest else "" for manifest in manifests]
    names = [metric.name for metric in metrics_of(run.settings.scoring, run.settings.executor)]
    return run.fingerprint("pair", sealed, names, run.settings.pairs.model_dump(mode="json"))


def _seal(run: Run, fingerprint: str, selection: pairing.Selection) -> None:
    """Seal the tables, pairs last: where pairs are sealed, the others are too."""
    run.tables.seal(tables.NORMS, fingerprint, selection.norm.to_arrow())
    run.tables.seal(tables.REWARDS, fingerprint, selection.rewards)
    run.tables.seal(tables.SKIPPED, fingerprint, selection.skipped)
    run.tables.seal(tables.EXCLUDED, fingerprint, selection.excluded)
    run.tables.seal(tables.PAIRS, fingerprint, selection.pairs)


def _require_pairs(run: Run) -> None:
    if run.tables.num_rows(tables.PAIRS):
        return
    reasons = ", ".join(f"{row['reason']}: {row['prompts']}" for row in _reasons(run))
    fix = "sample more candidates (--set sampling.num_candidates=5), or relax pairs.strategy or pairs.min_margin"
    raise InputError(f"no prompt gave a pair ({reasons})", "at least one pair", fix)


def _reasons(run: Run) -> list[dict[str, object]]:
    counts = pc.value_counts(run.tables.read(tables.SKIPPED)["reason"]).to_pylist()
    return sorted(
        ({"reason": row["values"], "prompts": row["counts"]} for row in counts), key=lambda row: str(row["reason"])
    )
