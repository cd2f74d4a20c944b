"""Stage ``pair``: norms, rewards, pairs and skipped prompts, over the score matrix."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avpref.console import say
from avpref.datasets import tables
from avpref.datasets.block_table import BlockTable
from avpref.datasets.selection import normalise, pairing
from avpref.datasets.selection.listed_pairs_table import keep_listed
from avpref.datasets.selection.score_matrix import ScoreMatrix, read_matrix
from avpref.datasets.selection.selection_source import SelectionSource, source_of
from avpref.datasets.table_terms import with_base_terms
from avpref.datasets.votes.voted_pairs import apply_votes
from avpref.domain import Split
from avpref.errors import InputError
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.rounds.earlier_pairs import earlier_pairs, previous_folder, without_earlier
from avpref.flows.run import Run
from avpref.flows.stages.import_pairs import listed_pairs
from avpref.flows.workers.generator import stated_terms
from avpref.flows.workers.prompt_sources import imports_pairs
from avpref.flows.workers.scorers import metrics_of
from avpref.identity import digest
from avpref.registry.study_files import opinions_in
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_folder import RunFolder, list_runs, open_root, open_run
from avpref.storage.table_readers import read_norm

SEALED = (tables.NORMS, tables.REWARDS, tables.SKIPPED, tables.EXCLUDED, tables.PAIRS)
"""The tables that the stage writes."""


@reporting.stage("pair")
def pair(run: Run) -> StageCounts:
    """Select the pairs of the run and seal norms, rewards, pairs and skipped; the rows are pairs."""
    fingerprint = _fingerprint(run)
    is_new = not all(run.tables.is_sealed(table, fingerprint) for table in SEALED)
    if is_new:
        _seal(run, fingerprint, pairs_of(run))
    _require_pairs(run)
    num_pairs = run.tables.num_rows(tables.PAIRS)
    made, present = (num_pairs, 0) if is_new else (0, num_pairs)
    counts = ItemCounts("pair", "pairs", made, present)
    log_counts(run.events, counts)
    reporting.table("pairs", _reasons(run), "prompts without a pair, by reason")
    return StageCounts(num_pairs, (counts,))


def select(run: RunFolder) -> pairing.Selection:
    """Apply the run's strategy to its sealed scores. Held-out prompts are left out, of the norm too.

    A later round selects among its own candidates, with the norm of the first round, so that rewards of all rounds have one scale;
    the pairs that it takes over from the round before follow. Raises InputError where ``pairs.norm`` names a norm that no run
    has, TableError for a damaged table.
    """
    matrix, norm = _scored(run)
    selection = _warned(run, pairing.select_pairs(matrix, run.settings.pairs, norm))
    earlier = earlier_pairs(run)
    return (
        selection
        if earlier is None
        else replace(selection, pair_blocks=BlockTable.of(pa.concat_tables([selection.pairs, earlier])))
    )


def pairs_of(run: Run) -> pairing.Selection:
    """The selection of the run: the imported pairs where it has some, otherwise those of its strategy. Raises as :func:`select`."""
    return keep_imported(run) if imports_pairs(run.settings) else select(run)


def keep_imported(run: Run) -> pairing.Selection:
    """The imported pairs of the run, measured by its scores. Raises as :func:`select`."""
    matrix, norm = _scored(run)
    return _warned(run, keep_listed(matrix, run.settings.pairs, norm, listed_pairs(run)))


def _scored(run: RunFolder) -> tuple[ScoreMatrix, normalise.Norm]:
    """The scores of the training candidates, and the norm that the settings name or that is measured on them."""
    settings, previous = run.settings.pairs, previous_folder(run)
    norm = saved_norm(run, settings.norm) if settings.norm else None if previous is None else read_norm(previous.tables)
    matrix = read_matrix(training_source(run), metrics_of(run.settings.scoring, run.settings.executor))
    return matrix, norm or normalise.measure(matrix, run.run_id)


def _warned(run: RunFolder, selection: pairing.Selection) -> pairing.Selection:
    """The selection with votes, if the settings name some; its warnings are printed."""
    for warning in selection.warnings:
        say(f"pair: {warning}")
    return voted(run, selection) if run.settings.pairs.votes else selection


def voted(run: RunFolder, selection: pairing.Selection) -> pairing.Selection:
    """The selection with the votes of ``pairs.votes``: pairs turned or dropped by people, the others as they are.

    Raises InputError where the study has other votes now: a run's pairs follow from its configuration alone.
    """
    name, _, study_and_votes = run.settings.pairs.votes.partition("/")
    study_id, _, votes_hash = study_and_votes.partition("@")
    opinions = opinions_in(open_run(run.runs, name), study_id)
    if opinions.votes_hash != votes_hash:
        found = f"the votes of study {study_id} have the hash {opinions.votes_hash}"
        fix = f"--set pairs.votes={name}/{study_id}@{opinions.votes_hash} uses the present votes, in another run"
        raise InputError(found, f"{votes_hash}, as in pairs.votes", fix)
    result = apply_votes(selection.pairs, opinions, keep_others=True)
    say(f"pair: votes of study {study_id}: {result.num_flipped} turned, {result.num_undecided} dropped")
    skipped = tables.joined([selection.skipped, result.skipped], tables.SKIPPED)
    return replace(selection, pair_blocks=BlockTable.of(result.pairs), skipped=skipped)


def training_source(run: RunFolder) -> SelectionSource:
    """The training split of prompts, candidates and scores. Local tables are read from their files in pieces.

    Raises InputError where a table does not exist yet.
    """
    if run.settings.rounds.earlier_share and run.settings.rounds.round > 1:
        return source_of(training_rows(run), training_only=True, threads=os.cpu_count() or 1)
    parts: dict[str, pa.Table | list[Path | pa.Table]] = {}
    for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES):
        manifest = run.tables.require(table)
        match run.tables.store.files:
            case LocalFiles() as local:
                parts[table.name] = [local.path(name) for name in run.tables.store.names(manifest)]
            case _:
                parts[table.name] = run.tables.read_version(table, manifest)
    return source_of(parts, training_only=True, threads=os.cpu_count() or 1)


def training_rows(run: RunFolder) -> dict[str, pa.Table]:
    """The training split of tables prompts, candidates and scores, in memory, without clips of earlier rounds.

    Raises as :func:`training_source`.
    """
    prompts = run.tables.read(tables.PROMPTS)
    prompts = prompts.filter(pc.field("split") == str(Split.TRAIN))
    candidates = without_earlier(run, run.tables.read(tables.CANDIDATES))
    candidates = candidates.filter(pc.is_in(candidates["prompt_id"], prompts["prompt_id"].combine_chunks()))
    scores = run.tables.read(tables.SCORES)
    scores = scores.filter(pc.is_in(scores["candidate_id"], candidates["candidate_id"].combine_chunks()))
    return {"prompts": prompts, "candidates": candidates, "scores": scores}


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
    metrics = metrics_of(run.settings.scoring, run.settings.executor)
    names = [metric.name for metric in metrics]
    weights = [metric.weight for metric in metrics]
    imported = run.tables.current(tables.IMPORTED.name) if imports_pairs(run.settings) else None
    listed = [] if imported is None else [imported.version]
    earlier = [digest("earlier", table.column("pair_id").to_pylist()) for table in [earlier_pairs(run)] if table]
    settings = run.settings.pairs.model_dump(mode="json")
    return run.fingerprint("pair", sealed, names, weights, settings, *earlier, *listed)


def _seal(run: Run, fingerprint: str, selection: pairing.Selection) -> None:
    """Seal the tables, pairs last: where pairs are sealed, the others are too."""
    with_terms = partial(with_base_terms, terms=stated_terms(run.settings))
    run.tables.seal(tables.NORMS, fingerprint, selection.norm.to_arrow())
    run.tables.seal(tables.REWARDS, fingerprint, selection.reward_blocks.changed(with_terms))
    run.tables.seal(tables.SKIPPED, fingerprint, selection.skipped)
    run.tables.seal(tables.EXCLUDED, fingerprint, selection.excluded)
    run.tables.seal(tables.PAIRS, fingerprint, selection.pair_blocks.changed(with_terms))


def _require_pairs(run: Run) -> None:
    if run.tables.num_rows(tables.PAIRS):
        return
    reasons = ", ".join(f"{row['reason']}: {row['prompts']}" for row in _reasons(run))
    fix = "sample more candidates (--set sampling.num_candidates=5), or relax pairs.strategy or pairs.min_margin"
    if imports_pairs(run.settings):
        fix = "look at the clips that were not imported or not scored: avpref runs show RUN"
    rounds = run.settings.rounds
    if rounds.round == 1:
        raise InputError(f"no prompt gave a pair ({reasons})", "at least one pair", fix)
    found = f"round {rounds.round}: no prompt gave a pair ({reasons}); the adapter of {rounds.previous} stands"
    raise InputError(found, "at least one pair in every round", f"--rounds {rounds.round - 1}; or {fix}")


def _reasons(run: Run) -> list[dict[str, object]]:
    counts = pc.value_counts(run.tables.read(tables.SKIPPED)["reason"]).to_pylist()
    return sorted(
        ({"reason": row["values"], "prompts": row["counts"]} for row in counts), key=lambda row: str(row["reason"])
    )
