"""Pairs that were listed instead of selected: the tables of a selection, with the run's own scores, norm and rewards.

Which clip is chosen, and what the pair speaks for, is what the list says. Margins are differences of the run's rewards, so a
negative margin means that the run's scorers disagree with the list. A pair is dropped where a side was not imported or lacks a
score (tables ``quarantine`` and ``excluded`` say which), and where it speaks for a dimension that no metric measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.metric_tables import SIDES
from avpref.datasets.selection.candidate_rewards import CandidateRewards, reward_table, rewards_of
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pair_search import ALL, SelectedPairs
from avpref.datasets.selection.pair_tables import excluded_table, pair_table
from avpref.datasets.selection.pairing import Selection
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.tables import SKIPPED, conform
from avpref.domain import ALL_DIMENSIONS, Origin

STRATEGY = "imported"
ABSENT = -1
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ListedPairs:
    """Candidate ids of both sides of every pair, and the dimension that it speaks for; each [S]."""

    chosen: Sequence[str]
    rejected: Sequence[str]
    dimension: Sequence[str]


def keep_listed(matrix: ScoreMatrix, settings: PairSettings, norm: Norm, listed: ListedPairs) -> Selection:
    """The listed pairs as a selection, in the order of prompt, margin (largest first) and ids.

    Equal lists give equal tables, whatever the order of their rows. A prompt without a pair is skipped with a reason. Raises as
    :func:`avpref.datasets.selection.candidate_rewards.rewards_of`.
    """
    rewards = rewards_of(matrix, settings, norm)
    sides = [_positions(matrix, rewards, ids) for ids in (listed.chosen, listed.rejected)]
    dimension = _dimensions(rewards, listed.dimension)
    is_kept = (sides[0] != ABSENT) & (sides[1] != ABSENT) & (dimension != ABSENT - 1)
    chosen, rejected = (positions[is_kept] for positions in sides)
    pairs = _ordered(matrix, rewards, chosen, rejected, dimension[is_kept])
    blocks = pair_table(matrix, rewards, pairs, settings, norm).changed(_labelled)
    dropped = int((~is_kept).sum())
    warnings = (f"{dropped} of {len(is_kept)} listed pairs dropped: a side lacks a clip or a score",) if dropped else ()
    return Selection(
        pair_blocks=blocks,
        skipped=_skipped(matrix, pairs),
        excluded=excluded_table(matrix),
        reward_blocks=reward_table(matrix, rewards, settings, norm),
        norm=norm,
        warnings=warnings,
    )


def _positions(matrix: ScoreMatrix, rewards: CandidateRewards, ids: Sequence[str]) -> Ints:
    """Positions in the rewards of candidates, :data:`ABSENT` for those that have none [S]."""
    known = matrix.index.ids(rewards.ordinals).to_pylist()
    position = {name: number for number, name in enumerate(known)}
    return np.array([position.get(name, ABSENT) for name in ids], np.int64)


def _dimensions(rewards: CandidateRewards, names: Sequence[str]) -> Ints:
    """Numbers of dimensions: :data:`ALL` for all of them, ``ABSENT - 1`` for one that the run does not measure [S]."""
    number = {name: place for place, name in enumerate(rewards.rewards.dimensions)} | {ALL_DIMENSIONS: ALL}
    return np.array([number.get(name, ABSENT - 1) for name in names], np.int64)


def _ordered(
    matrix: ScoreMatrix, rewards: CandidateRewards, chosen: Ints, rejected: Ints, dimension: Ints
) -> SelectedPairs:
    by_dimension = rewards.rewards.by_dimension
    margins = by_dimension[:, chosen] - by_dimension[:, rejected]
    total = margins.sum(axis=0)
    own = np.where(dimension == ALL, total, margins[np.maximum(dimension, 0), np.arange(len(chosen))])
    prompt = matrix.index.prompt[rewards.ordinals[chosen]].astype(np.int64)
    order = np.lexsort((dimension, rejected, chosen, -own, prompt))
    prompt = prompt[order]
    is_first = np.append(True, prompt[1:] != prompt[:-1]) if len(prompt) else np.zeros(0, bool)
    start = np.maximum.accumulate(np.where(is_first, np.arange(len(prompt)), 0))
    rank = np.arange(len(prompt)) - start + 1
    return SelectedPairs(prompt, rank, chosen[order], rejected[order], own[order], dimension[order])


def _labelled(pairs: pa.Table) -> pa.Table:
    """``pairs`` with the strategy and origins of imported ones."""
    values = {"strategy": STRATEGY} | {f"{side}_origin": str(Origin.IMPORTED) for side in SIDES}
    for name, value in values.items():
        place = pairs.schema.get_field_index(name)
        pairs = pairs.set_column(place, pairs.schema.field(place), pa.repeat(pa.scalar(value), pairs.num_rows))
    return pairs


def _skipped(matrix: ScoreMatrix, pairs: SelectedPairs) -> pa.Table:
    """The training prompts without a pair, in the order of their ids."""
    prompts, index = matrix.index.prompts, matrix.index
    has_pair = np.zeros(len(prompts.ids), dtype=bool)
    has_pair[pairs.prompt] = True
    skipped = np.flatnonzero(prompts.is_known & prompts.is_train & ~has_pair)
    num_incomplete = np.bincount(index.prompt[~matrix.is_complete], minlength=len(prompts.ids))[skipped]
    num_candidates = np.bincount(index.prompt, minlength=len(prompts.ids))[skipped]
    detail = [
        f"{candidates} clips imported, {incomplete} of them without a score"
        for candidates, incomplete in zip(num_candidates, num_incomplete, strict=True)
    ]
    reason = np.where(num_candidates < 2, "no_candidates", "unscored")
    columns = {
        "prompt_id": index.prompt_ids(skipped),
        "reason": pa.array(reason.tolist(), pa.string()),
        "detail": pa.array(detail, pa.string()),
    }
    return conform(SKIPPED, pa.table(columns))
