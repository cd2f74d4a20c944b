"""The search for pairs: prompts with equally many candidates are compared at once, as arrays [prompts, chosen, rejected].

The largest margins of a prompt win; ties go to the chosen, then the rejected candidate that comes first in the candidate index.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.reward_formula import normalised_scores
from avpref.datasets.selection.candidate_rewards import CandidateRewards
from avpref.datasets.selection.score_matrix import ScoreMatrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COMPARISONS = 1 << 17
"""Comparisons of two candidates that are held at once, per dimension."""
ALL = -1
"""Dimension of a pair that speaks for all of them."""


@dataclass(frozen=True, eq=False)
class SelectedPairs:
    """Pairs in the order of prompt and rank: ``prompt``, ``rank`` (from 1), ``chosen`` and ``rejected`` (positions in the rewards),
    ``margin`` (the margin that ranked them), ``dimension`` (its number, or :data:`ALL`); each [S]."""

    prompt: Ints
    rank: Ints
    chosen: Ints
    rejected: Ints
    margin: Floats
    dimension: Ints

    def __len__(self) -> int:
        return len(self.prompt)

    def part(self, start: int, end: int) -> SelectedPairs:
        """The pairs from ``start`` to ``end``."""
        return SelectedPairs(**{name: values[start:end] for name, values in vars(self).items()})


@dataclass(frozen=True, eq=False)
class PairSearch:
    """``pairs``; ``num_compared`` [P]: eligible candidates of every prompt; ``best_margin`` [P]: the largest margin of a candidate
    that is better than another, also where it is below ``min_margin``; NaN where none is better."""

    pairs: SelectedPairs
    num_compared: Ints
    best_margin: Floats


def search(matrix: ScoreMatrix, rewards: CandidateRewards, settings: PairSettings) -> PairSearch:
    """The pairs of every prompt of the training split."""
    index, is_train = matrix.index, matrix.index.prompts.is_train
    has_all = len(rewards.ordinals) == len(index)
    prompt = index.prompt if has_all else index.prompt[rewards.ordinals]
    num_compared = index.num_candidates if has_all else np.bincount(prompt, minlength=len(is_train))
    num_compared = np.where(is_train, num_compared, 0)
    eligible = None if is_train.all() else np.flatnonzero(is_train[prompt])
    starts = np.cumsum(num_compared) - num_compared
    best_margin = np.full(len(is_train), np.nan)

    def compare(block: tuple[int, Ints]) -> SelectedPairs:
        size, of_block = block
        members = starts[of_block, None] + np.arange(size)
        found = _compare(matrix, rewards, settings, members if eligible is None else eligible[members])
        best_margin[of_block] = found.best_margin
        return found.pairs

    with ThreadPoolExecutor(matrix.threads) as pool:
        parts = list(pool.map(compare, _blocks(num_compared)))
    return PairSearch(_in_order(parts), num_compared, best_margin)


def _blocks(num_compared: Ints) -> Iterator[tuple[int, Ints]]:
    """A number of candidates, at least two, and some prompts with so many of them, ascending."""
    sizes = np.flatnonzero(np.bincount(num_compared))
    for size in sizes[sizes > 1].tolist():
        of_size = np.flatnonzero(num_compared == size)
        step = max(1, COMPARISONS // size**2)
        for start in range(0, len(of_size), step):
            yield size, of_size[start : start + step]


def _compare(matrix: ScoreMatrix, rewards: CandidateRewards, settings: PairSettings, members: Ints) -> PairSearch:
    """The pairs of a block of prompts; ``num_compared`` is empty."""
    by_dimension = _gathered(rewards.rewards.by_dimension, members)
    prompt = matrix.index.prompt[rewards.ordinals_at(members[:, 0])].astype(np.int64)
    match settings.strategy:
        case "modality" | "routed":
            is_better, margin = _all_above(by_dimension), _sum_of_margins(by_dimension)
        case "average":
            overall = _gathered(rewards.rewards.overall[None], members)
            is_better, margin = _all_above(overall), _sum_of_margins(overall)
        case "strict":
            scales = rewards.scales
            raw = _gathered(matrix.values, rewards.ordinals_at(members))
            scores = normalised_scores(raw.reshape(len(scales), -1), scales).reshape(raw.shape)
            has_weight = [scale.weight > 0 for scale in scales]
            is_better, margin = _all_above(scores[has_weight]), _sum_of_margins(by_dimension)
    best, pairs = _largest(np.where(is_better, margin, -np.inf), members, prompt, settings, ALL)
    if settings.strategy != "routed":
        return PairSearch(pairs, _NO_INTS, best)
    return _routed(by_dimension, best, pairs, members, prompt, settings)


_NO_INTS: Ints = np.zeros(0, np.int64)


def _gathered(lines: Floats, members: Ints) -> Floats:
    """``lines`` [D, N] at ``members`` [prompts, size]: [D, prompts, size], in memory with the prompts last.

    Prompts are many and candidates few, so that operations on the result run along the prompts.
    """
    by_place = np.ascontiguousarray(members.T)
    return np.stack([line.take(by_place) for line in lines]).transpose(0, 2, 1)


def _routed(
    by_dimension: Floats, best: Floats, pairs: SelectedPairs, members: Ints, prompt: Ints, settings: PairSettings
) -> PairSearch:
    """``pairs``, and pairs per dimension of the prompts where no candidate is better than another in every dimension.

    A pair of one dimension is better in it, and worse by at most ``routed_tolerance`` in every other; its margin is that of the
    dimension.
    """
    rest = np.flatnonzero(np.isnan(best))
    if not len(rest):
        return PairSearch(pairs, _NO_INTS, best)
    rewards, parts = by_dimension[:, rest], [pairs]
    margins = rewards[:, :, :, None] - rewards[:, :, None, :]
    is_tolerable = margins >= -settings.routed_tolerance
    for dimension in range(len(rewards)):
        others = [number for number in range(len(rewards)) if number != dimension]
        is_better = (margins[dimension] > 0) & is_tolerable[others].all(axis=0)
        largest, found = _largest(
            np.where(is_better, margins[dimension], -np.inf), members[rest], prompt[rest], settings, dimension
        )
        best[rest] = np.fmax(best[rest], largest)
        parts.append(found)
    return PairSearch(_joined(parts), _NO_INTS, best)


def _all_above(values: Floats) -> NDArray[np.bool_]:
    """Whether the chosen candidate is above the rejected one in every row of ``values`` [rows, prompts, size]."""
    lines = (line[:, :, None] > line[:, None, :] for line in values)
    return reduce(np.logical_and, lines)


def _sum_of_margins(values: Floats) -> Floats:
    """Chosen − rejected, summed over the rows from the first on [prompts, size, size]."""
    return reduce(np.add, (line[:, :, None] - line[:, None, :] for line in values))


def _largest(
    margin: Floats, members: Ints, prompt: Ints, settings: PairSettings, dimension: int
) -> tuple[Floats, SelectedPairs]:
    """The largest margin of every prompt (NaN where there is none), and the pairs that are kept.

    ``margin`` [prompts, size, size]: −∞ where the pair is not allowed. The first of equal margins is the first in row-major order.
    """
    num_prompts, size, _ = margin.shape
    flat = margin.reshape(num_prompts, size * size)
    if settings.max_pairs_per_prompt == 1:
        places = flat.argmax(axis=1)[:, None]
    else:
        places = np.argsort(-flat, axis=1, kind="stable")[:, : settings.max_pairs_per_prompt]
    values = np.take_along_axis(flat, places, axis=1)
    largest = np.where(values[:, 0] == -np.inf, np.nan, values[:, 0])
    row, column = np.nonzero((values > -np.inf) & (values >= settings.min_margin))
    place = places[row, column]
    pairs = SelectedPairs(
        prompt=prompt[row],
        rank=column + 1,
        chosen=members[row, place // size],
        rejected=members[row, place % size],
        margin=values[row, column],
        dimension=np.full(len(row), dimension),
    )
    return largest, pairs


def _joined(parts: list[SelectedPairs]) -> SelectedPairs:
    columns = {name: [vars(part)[name] for part in parts] for name in SelectedPairs.__dataclass_fields__}
    empty = {name: np.zeros(0, np.float64 if name == "margin" else np.int64) for name in columns}
    return SelectedPairs(**{name: np.concatenate([empty[name], *values]) for name, values in columns.items()})


def _in_order(parts: list[SelectedPairs]) -> SelectedPairs:
    """All pairs in the order of prompt, dimension and rank; ranks count from 1 within a prompt."""
    pairs = _joined(parts)
    if (pairs.prompt[1:] > pairs.prompt[:-1]).all() and (pairs.dimension == ALL).all():
        return pairs
    order = np.lexsort((pairs.rank, pairs.dimension, pairs.prompt))
    ordered = SelectedPairs(**{name: values[order] for name, values in vars(pairs).items()})
    if not (ordered.dimension != ALL).any():
        return ordered
    is_first = np.append(True, ordered.prompt[1:] != ordered.prompt[:-1])
    start = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    return SelectedPairs(**{**vars(ordered), "rank": np.arange(len(order)) - start + 1})
