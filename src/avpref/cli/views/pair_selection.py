"""Selects pairs again, over a run's sealed scores or over a file, without writing to the run; compares selections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from avpref.cli.views.run_rows import pair, pairs
from avpref.config.loading import load_config, load_section
from avpref.config.pairs_settings import AuditSettings, PairSettings
from avpref.config.scoring_settings import ScoringSettings
from avpref.console import say
from avpref.datasets import table_files, tables
from avpref.datasets.block_table import BlockTable
from avpref.datasets.selection import normalise
from avpref.datasets.selection.candidate_rewards import strategy_label
from avpref.datasets.selection.compare import SelectionInputs, Snapshot, diff
from avpref.datasets.selection.leaderboard import Leaderboard, leaderboard
from avpref.datasets.selection.pairing import Selection, select_pairs
from avpref.datasets.selection.prompt_blind import checked_prompt_blind
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.score_table_import import read_scores
from avpref.datasets.selection.selection_source import source_of
from avpref.datasets.table_files import check_format
from avpref.datasets.votes.voted_pairs import apply_votes
from avpref.domain import Metric
from avpref.errors import ConfigError, PartialResult
from avpref.flows.stages.pair import select, training_rows, training_source
from avpref.flows.workers.scorers import metrics_of
from avpref.registry.study_files import opinions_in
from avpref.storage import local_files
from avpref.storage.run_folder import CONFIG_FILE, RunFolder
from avpref.storage.table_readers import read_norm

__all__ = [
    "by_votes",
    "check_format",
    "compared",
    "exit_code",
    "from_file",
    "from_run",
    "leaderboard_of",
    "snapshot",
    "write_pairs",
]

Document = dict[str, Any]

MAY_CHANGE = ("pairs.", "scoring.metrics", "scoring.weights", "audit.prompt_blind")
DECLARES = "scoring.scorers"
"""Over a file of scores, the scorers that declare its metrics may be named too."""


def from_run(folder: RunFolder, overrides: Sequence[str]) -> tuple[Document, Selection]:
    """Select over the run's scores with its settings and ``overrides`` (of the section pairs and of scoring.metrics).

    Raises ConfigError for another override, InputError where the scores are missing or were changed.
    """
    _refuse_others(overrides, MAY_CHANGE)
    for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES):
        folder.tables.require(table)
    settings = load_config(folder.root / CONFIG_FILE, overrides, environment={}).settings
    blind = _prompt_blind(metrics_of(settings.scoring, settings.executor), settings.audit)
    selection = select(replace(folder, settings=settings))
    selection = replace(selection, warnings=(*selection.warnings, *blind))
    documents = pairs(folder, selection.pairs)
    return {"run_id": folder.run_id, **_document(selection, settings.pairs, documents)}, selection


def from_file(path: Path, overrides: Sequence[str]) -> tuple[Document, Selection]:
    """Select over a file of scores with the defaults and ``overrides``; see avpref.datasets.selection.score_table_import.

    Raises as :func:`avpref.datasets.selection.score_table_import.read_scores`, and ConfigError for another override.
    """
    _refuse_others(overrides, (*MAY_CHANGE, DECLARES))
    settings = load_section(PairSettings, "pairs", _of_section("pairs", overrides))
    scoring = load_section(ScoringSettings, "scoring", _of_section("scoring", overrides))
    if settings.norm:
        raise ConfigError("pairs.norm with a file of scores", "a run, which saves its norms", "leave pairs.norm empty")
    metrics = metrics_of(scoring)
    blind = _prompt_blind(metrics, load_section(AuditSettings, "audit", _of_section("audit", overrides)))
    read = read_scores(path, metrics, settings)
    if read.unused:
        say(f"{path}: columns that are not used: {', '.join(read.unused)}")
    matrix = read_matrix(source_of({"candidates": read.candidates, "scores": read.scores}), metrics)
    selection = select_pairs(matrix, settings, normalise.measure(matrix, path.name))
    for warning in selection.warnings:
        say(warning)
    selection = replace(selection, warnings=(*selection.warnings, *blind))
    documents = [pair(row, metrics, None, {}) for row in selection.pairs.to_pylist()]
    refused = [asdict(row) for row in read.refused]
    return {"scores": str(path), **_document(selection, settings, documents), "refused": refused}, selection


def by_votes(
    folder: RunFolder, study_id: str, keep_others: bool, selected: tuple[Document, Selection]
) -> tuple[Document, Selection]:
    """The pairs of a selection as the people of a study prefer them; its strategy names the study and its votes.

    Raises InputError where the run has no such study, or nobody has voted in it.
    """
    document, selection = selected
    opinions = opinions_in(folder, study_id)
    voted = apply_votes(selection.pairs, opinions, keep_others)
    skipped = tables.joined([selection.skipped, voted.skipped], tables.SKIPPED)
    changed = replace(selection, pair_blocks=BlockTable.of(voted.pairs), skipped=skipped)
    counts = {name: getattr(voted, f"num_{name}") for name in ("confirmed", "flipped", "undecided", "not_voted")}
    renewed = _document(changed, folder.settings.pairs, pairs(folder, voted.pairs))
    strategy = f"{document['strategy']} {opinions.label}"
    votes = {"study_id": opinions.study_id, "votes_hash": opinions.votes_hash, **counts}
    return {**document, **renewed, "strategy": strategy, "votes": votes}, changed


def exit_code(document: Document) -> int:
    """0, or 5 where candidates were left out because some metric has no number, or rows of the file were refused."""
    return PartialResult.exit_code if document["excluded"] or document.get("refused") else 0


def snapshot(folder: RunFolder) -> Snapshot:
    """The run's pairs and the inputs of their selection."""
    read = training_rows(folder)
    settings, metrics = folder.settings.pairs, metrics_of(folder.settings.scoring, folder.settings.executor)
    return Snapshot(
        folder.tables.read(tables.PAIRS),
        SelectionInputs(**read, norm=read_norm(folder.tables), settings=settings, metrics=metrics),
    )


def compared(before: RunFolder, after: RunFolder) -> Document:
    """The differences between the pairs of two runs, and their number by kind and cause."""
    rows = diff(snapshot(before), snapshot(after)).to_pylist()
    counts = Counter((row["change"], row["cause"]) for row in rows)
    summary = [{"change": change, "cause": cause, "pairs": count} for (change, cause), count in sorted(counts.items())]
    return {"before": before.run_id, "after": after.run_id, "summary": summary, "differences": rows}


def leaderboard_of(folder: RunFolder) -> Leaderboard:
    """The pairs that each strategy would select over the run's scores; on the run's norm where it has one."""
    matrix = read_matrix(training_source(folder), metrics_of(folder.settings.scoring, folder.settings.executor))
    has_norm = folder.tables.has(tables.NORMS)
    return leaderboard(matrix, read_norm(folder.tables) if has_norm else normalise.measure(matrix, folder.run_id))


def _document(selection: Selection, settings: PairSettings, documents: list[Document]) -> Document:
    skipped = Counter(selection.skipped["reason"].to_pylist())
    prompts = {row["prompt_id"] for row in documents}
    return {
        "strategy": strategy_label(settings),
        "norm_id": selection.norm.norm_id if settings.normalise else None,
        "num_pairs": len(documents),
        "prompts": len(prompts) + selection.skipped.num_rows,
        "pairs": documents,
        "skipped": dict(sorted(skipped.items())),
        "excluded": selection.excluded.to_pylist(),
        "warnings": list(selection.warnings),
    }


def _prompt_blind(metrics: Sequence[Metric], audit: AuditSettings) -> tuple[str, ...]:
    """Say what the metrics do not compare with the prompt; returns the same. Raises ConfigError where that is to be refused."""
    findings = checked_prompt_blind(metrics, audit.prompt_blind)
    for finding in findings:
        say(f"prompt-blind rewards: {finding}")
    return findings


def _of_section(section: str, overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if override.startswith(f"{section}.")]


def _refuse_others(overrides: Sequence[str], allowed: tuple[str, ...]) -> None:
    for override in overrides:
        if not override.startswith(allowed):
            others = ", ".join(f"{name}=..." for name in allowed[1:])
            expected = f"pairs.KEY=VALUE, {others}: nothing else changes which pairs are selected"
            raise ConfigError(f"--set {override}", expected, "avpref config show")


def write_pairs(out: Path, pairs: pa.Table) -> None:
    """Write the pair table to ``out`` (.csv or .parquet). Raises ConfigError, StorageError."""
    table_files.write_table(out, pairs, local_files.replace)
