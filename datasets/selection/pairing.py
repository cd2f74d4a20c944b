"""Selection of preference pairs over the score matrix.

Source: JavisDiT++ §"Preference Data Acquisition", Table 4, and its ranking script, with which the ``modality`` strategy
agrees pair for pair (the average strategies are described in the paper and absent from the script).

* ``modality``: chosen is strictly better in the reward of every dimension; the pair's margin is the sum of the margins.
* ``average``: one reward per candidate, the mean over all metrics; the margin is its difference.
* ``strict``: chosen is strictly better on every single metric that has weight; the margin is the sum of the margins.
* ``routed``: as ``modality``; a prompt in which no candidate is better in every dimension may give a pair per dimension, chosen
  better in it and worse by at most ``routed_tolerance`` in every other. The margin of such a pair is that of its dimension, which the
  column ``dimension`` names, and its loss moves only the modalities of that dimension.

The largest margins of a prompt (``routed``: and dimension) win, at most ``max_pairs_per_prompt``; ties go to the chosen, then the
rejected candidate that comes first (index, then id). ``min_margin`` is a lower bound (inclusive) on ``margin_total``. Ground truth
that the strategy does not admit counts in the norm, but not in the ranks of ``macro``, as in the published ranking. A candidate
that lacks a configured score (no row, not ok, NaN, infinite) is in no pair; it is listed in ``excluded`` with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.block_table import BlockTable
from avpref.datasets.reused_memory import reused_memory
from avpref.datasets.selection.candidate_rewards import CandidateRewards, reward_table, rewards_of
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pair_search import SelectedPairs, search
from avpref.datasets.selection.pair_tables import excluded_table, kept_pairs, pair_table, shapes_of
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.selection.skipped_prompts import skipped_table
from avpref.domain import Metric


@dataclass(frozen=True)
class Selection:
    """Tables ``pairs``, ``skipped`` (prompts without a pair), ``excluded`` (scores that candidates lack) and ``rewards``,
    with the norm they rest on. Those of pairs and rewards are made when they are read, or in blocks as they are sealed.

    Every prompt is either in ``pairs`` or in ``skipped``, there with a reason
    (:mod:`avpref.datasets.selection.skipped_prompts` lists them). ``warnings`` are sentences for people.
    """

    pair_blocks: BlockTable
    skipped: pa.Table
    excluded: pa.Table
    reward_blocks: BlockTable
    norm: Norm
    warnings: tuple[str, ...]

    @cached_property
    def pairs(self) -> pa.Table:
        """Table ``pairs``, as a whole."""
        return self.pair_blocks.whole()

    @cached_property
    def rewards(self) -> pa.Table:
        """Table ``rewards``, as a whole."""
        return self.reward_blocks.whole()


@reused_memory()
def select_pairs(matrix: ScoreMatrix, settings: PairSettings, norm: Norm) -> Selection:
    """Select pairs over the candidates of ``matrix``.

    Only prompts of the train split are paired; without a prompt table all are. Equal content gives equal tables, whatever the row
    order and the number of threads. Raises ConfigError or TableError; see
    :func:`avpref.datasets.selection.candidate_rewards.rewards_of`.
    """
    rewards = rewards_of(matrix, settings, norm)
    reward_blocks = reward_table(matrix, rewards, settings, norm)
    found = search(matrix, rewards, settings)
    shapes = shapes_of(matrix, rewards, found.pairs)
    return Selection(
        pair_blocks=pair_table(matrix, rewards, kept_pairs(found, shapes, settings), settings, norm),
        skipped=skipped_table(matrix, rewards, found, shapes, settings),
        excluded=excluded_table(matrix),
        reward_blocks=reward_blocks,
        norm=norm,
        warnings=_warnings(settings, matrix.metrics, norm),
    )


def pairs_of(matrix: ScoreMatrix, rewards: CandidateRewards, settings: PairSettings) -> SelectedPairs:
    """The pairs that are kept, without their tables."""
    found = search(matrix, rewards, settings)
    return kept_pairs(found, shapes_of(matrix, rewards, found.pairs), settings)


def _warnings(settings: PairSettings, metrics: Sequence[Metric], norm: Norm) -> tuple[str, ...]:
    if not settings.normalise:
        return ()
    constant = [metric.name for metric in metrics if metric.name in norm.constant]
    effect = (
        "so no pair can be strictly better on it" if settings.strategy == "strict" else "it contributes 0 for everyone"
    )
    return tuple(f"metric '{name}' has no variance in population '{norm.population}': {effect}" for name in constant)
