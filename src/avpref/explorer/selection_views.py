"""Selections over the scores of a run for its pages: what each strategy chooses for one prompt, and the leaderboard of strategies."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.metric_tables import metrics_in
from avpref.datasets.selection.candidate_rewards import rewards_of, strategy_label
from avpref.datasets.selection.leaderboard import STRATEGIES, leaderboard
from avpref.datasets.selection.normalise import Norm, from_arrow
from avpref.datasets.selection.pair_search import search
from avpref.datasets.selection.pair_tables import kept_pairs, shapes_of
from avpref.datasets.selection.score_matrix import ScoreMatrix, read_matrix
from avpref.datasets.selection.selection_source import Part, SelectionSource, source_of
from avpref.datasets.selection.skipped_prompts import skipped_table
from avpref.domain import METRICS, Metric
from avpref.explorer.opened_runs import OpenedRun
from avpref.explorer.run_database import RunDatabase, arrow_of
from avpref.storage.local_files import LocalFiles

_ONE_AT_A_TIME = threading.Lock()
"""A selection sets the memory pool of the process, so one runs at a time."""


@dataclass(frozen=True)
class Choice:
    """The pair that a strategy selects for a prompt; without a pair the reason."""

    strategy: str
    is_of_run: bool
    chosen: str = ""
    rejected: str = ""
    margin: float | None = None
    reason: str = ""


def metrics_of_run(run: OpenedRun) -> tuple[Metric, ...]:
    """The metrics that the run's pairs were selected by; the paper's before there are pairs."""
    manifest = run.folder.tables.current(tables.PAIRS.name)
    if manifest is None:
        return METRICS
    store = run.folder.tables.store
    for name in store.names(manifest):
        with store.files.open(name) as stream:
            return metrics_in(pq.read_schema(stream)) or METRICS
    return METRICS


def choices_of(run: OpenedRun, prompt_id: str) -> list[Choice]:
    """The pair of every strategy for one training prompt, on the run's norm; empty before stage ``pair`` has run."""
    con = run.database.cursor()
    parts = {
        "prompts": "SELECT * FROM prompts WHERE prompt_id = $prompt",
        "candidates": "SELECT * FROM candidates WHERE prompt_id = $prompt",
        "scores": "SELECT scores.* FROM scores SEMI JOIN candidates ON candidates.candidate_id = scores.candidate_id"
        " AND candidates.prompt_id = $prompt",
    }
    rows = {
        name: tables.conform(tables.TABLE_BY_NAME[name], arrow_of(con, query, prompt=prompt_id))
        for name, query in parts.items()
    }
    norms = arrow_of(con, "SELECT * FROM norms")
    if not norms.num_rows or not rows["scores"].num_rows:
        return []
    norm = from_arrow(tables.conform(tables.NORMS, norms), norms["norm_id"][0].as_py())
    own = run.folder.settings.pairs
    choices = []
    with _ONE_AT_A_TIME:
        matrix = read_matrix(source_of(rows, threads=1), metrics_of_run(run))
        for settings in _strategies(own):
            choices += _choices(matrix, settings, own, norm)
    return choices


def leaderboard_rows(run: OpenedRun) -> list[dict[str, Any]]:
    """The leaderboard of strategies over the run's training prompts; empty before stage ``pair`` has run."""
    con = run.database.cursor()
    norms = arrow_of(con, "SELECT * FROM norms")
    if not norms.num_rows:
        return []
    norm = from_arrow(tables.conform(tables.NORMS, norms), norms["norm_id"][0].as_py())
    with _ONE_AT_A_TIME:
        matrix = read_matrix(_training_source(run), metrics_of_run(run))
        return leaderboard(matrix, norm).rows.to_pylist()


def _training_source(run: OpenedRun) -> SelectionSource:
    """The training split of the run's tables: their files, read in pieces, or tables in memory where they are in a bucket."""
    sealed = run.folder.tables
    parts: dict[str, Sequence[Part]] = {}
    for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES):
        manifest = sealed.require(table)
        match sealed.store.files:
            case LocalFiles() as local:
                parts[table.name] = [local.path(name) for name in sealed.store.names(manifest)]
            case _:
                parts[table.name] = [sealed.read_version(table, manifest)]
    return source_of(parts, training_only=True)


def _strategies(own: PairSettings) -> Sequence[PairSettings]:
    """The strategies of the leaderboard with the run's other settings; the run's own first."""
    compared = ("strategy", "average", "normalise", "ground_truth")
    others = [own.model_copy(update={name: getattr(strategy, name) for name in compared}) for strategy in STRATEGIES]
    return [own, *(settings for settings in others if settings != own)]


def _choices(matrix: ScoreMatrix, settings: PairSettings, own: PairSettings, norm: Norm) -> list[Choice]:
    """The pairs of one strategy, or the reason why there is none."""
    label, is_of_run = strategy_label(settings), settings == own
    rewards = rewards_of(matrix, settings, norm)
    search_result = search(matrix, rewards, settings)
    shapes = shapes_of(matrix, rewards, search_result.pairs)
    pairs = kept_pairs(search_result, shapes, settings)
    if not len(pairs.prompt):
        reasons = skipped_table(matrix, rewards, search_result, shapes, settings)["reason"].to_pylist()
        return [Choice(label, is_of_run, reason=reasons[0] if reasons else "no pair")]
    sides = [matrix.index.ids(rewards.ordinals[side]).to_pylist() for side in (pairs.chosen, pairs.rejected)]
    return [
        Choice(label, is_of_run, chosen, rejected, margin)
        for chosen, rejected, margin in zip(*sides, pairs.margin.tolist(), strict=True)
    ]


def prompt_clips(database: RunDatabase, prompt_id: str) -> list[dict[str, Any]]:
    """All clips of a prompt, training and reference before the policy's, with scores and rewards."""
    result = database.cursor().execute(
        "SELECT * FROM clip_rows WHERE prompt_id = $prompt ORDER BY side = 'policy', \"index\", candidate_id",
        {"prompt": prompt_id},
    )
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, values, strict=True)) for values in result.fetchall()]
