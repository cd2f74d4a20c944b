"""Prompts without a pair, each with the first reason that applies.

In order: held_out, no_candidates, one_candidate, unscored (fewer than two complete candidates), no_dominance (none is better than
another), margin, shape, length (of the best pair).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.selection.candidate_rewards import CandidateRewards
from avpref.datasets.selection.pair_search import PairSearch
from avpref.datasets.selection.pair_tables import Shapes
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.tables import SKIPPED, conform

Ints = NDArray[np.int64]

REASONS = ("held_out", "no_candidates", "one_candidate", "unscored", "no_dominance", "margin", "shape", "length")


def skipped_table(
    matrix: ScoreMatrix, rewards: CandidateRewards, found: PairSearch, shapes: Shapes, settings: PairSettings
) -> pa.Table:
    """Table ``skipped``, in the order of the prompts' ids."""
    prompts = matrix.index.prompts
    is_shape_kept, is_length_kept = shapes.is_shape_kept(settings), shapes.is_length_kept(settings)
    is_paired = np.zeros(len(prompts.ids), dtype=bool)
    is_paired[found.pairs.prompt[is_shape_kept & is_length_kept]] = True
    skipped = np.flatnonzero(prompts.is_known & ~is_paired)
    counts = _counts(matrix, rewards, found, skipped)
    dropped = np.flatnonzero(~is_paired[found.pairs.prompt])[::-1]
    first = np.full(len(skipped), -1)
    first[np.searchsorted(skipped, found.pairs.prompt[dropped])] = dropped  # the best pair of a prompt comes first
    margin = found.best_margin[skipped]
    has_pair = first >= 0
    conditions = [
        ~prompts.is_train[skipped],
        counts.num_admitted == 0,
        counts.num_admitted == 1,
        counts.num_compared < 2,
        np.isnan(margin),
        ~has_pair,
        ~is_shape_kept[first] if len(is_shape_kept) else has_pair,
    ]
    reason = np.select(conditions, range(len(conditions)), len(conditions))
    place = np.maximum(first, 0)
    aspect_ratio, length_ratio = (ratio[place] if len(ratio) else margin for ratio in vars(shapes).values())
    key = counts.key
    split = prompts.split.take(pa.array(skipped)).dictionary_encode()
    describe: dict[str, tuple[NDArray[np.generic], Callable[[Any], str]]] = {
        "held_out": (split.indices.to_numpy(), lambda code: f"split is {split.dictionary[code].as_py()}"),
        "no_candidates": (key, lambda key: f"{counts.of(key)[0]} candidates, 0 admitted"),
        "one_candidate": (key, lambda key: f"{counts.of(key)[0]} candidates, 1 admitted"),
        "unscored": (key, lambda key: f"{counts.of(key)[1]} of {counts.of(key)[0]} candidates lack a score"),
        "no_dominance": (key, lambda key: _no_dominance(*counts.of(key), settings)),
        "margin": (margin, lambda value: f"largest margin {value:.6g}, at least {settings.min_margin:.6g} asked"),
        "shape": (aspect_ratio, lambda value: f"aspect ratio {value:.6g} of the smaller side"),
        "length": (length_ratio, lambda value: f"one side has {value:.6g} times the frames of the other"),
    }
    texts: list[str] = []
    text_code = np.zeros(len(skipped), np.int64)
    for number, name in enumerate(REASONS):
        of_reason = np.flatnonzero(reason == number)
        values, text = describe[name]
        distinct, inverse = np.unique(values[of_reason], return_inverse=True)
        text_code[of_reason] = len(texts) + inverse
        texts += map(text, distinct)
    columns = {
        "prompt_id": matrix.index.prompt_ids(skipped),
        "reason": pa.array(REASONS, pa.string()).take(pa.array(reason)),
        "detail": pa.array(texts, pa.string()).take(pa.array(text_code)),
    }
    return conform(SKIPPED, pa.table(columns))


def _counts(matrix: ScoreMatrix, rewards: CandidateRewards, found: PairSearch, skipped: Ints) -> _Counts:
    whole = matrix.index.num_candidates[skipped]
    num_left_out, num_incomplete = (
        np.bincount(matrix.index.prompt[~flags], minlength=len(found.num_compared))[skipped]
        if not flags.all()
        else np.zeros_like(whole)
        for flags in (rewards.is_admitted, matrix.is_complete)
    )
    return _Counts(whole, whole - num_left_out, num_incomplete, found.num_compared[skipped])


@dataclass(frozen=True, eq=False)
class _Counts:
    """Candidates of each skipped prompt, those that the strategy admits, those that lack a score, and those that were compared;
    ``key`` holds all but the admitted."""

    num_candidates: Ints
    num_admitted: Ints
    num_incomplete: Ints
    num_compared: Ints

    @property
    def base(self) -> int:
        """More than any of the counts."""
        return int(self.num_candidates.max(initial=0)) + 1

    @property
    def key(self) -> Ints:
        """The three counts as one number each."""
        return (self.num_candidates * self.base + self.num_incomplete) * self.base + self.num_compared

    def of(self, key: int) -> tuple[int, int, int]:
        """The three counts of a key."""
        rest, num_compared = divmod(int(key), self.base)
        return *divmod(rest, self.base), num_compared


def _no_dominance(num_candidates: int, num_incomplete: int, num_compared: int, settings: PairSettings) -> str:
    lacking = f"{num_incomplete} of {num_candidates} candidates lack a score"
    if settings.strategy == "routed":
        tolerance = f"worse by at most {settings.routed_tolerance:.6g} in the others"
        return f"{num_compared} compared, none better in a dimension and {tolerance}; {lacking}"
    return f"{num_compared} compared, none better than another; {lacking}"
