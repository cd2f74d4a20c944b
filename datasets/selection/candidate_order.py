"""The canonical order of candidates: prompt, index, id. Without a sort where the rows of a prompt follow each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avpref.datasets.selection.text_hashes import equal_length_words

Ints = NDArray[np.int64]
Positions = NDArray[np.signedinteger]
"""Positions among candidates, 32 bits wide where they fit."""

MAX_INT32 = 2**31 - 1
SLICE = 1 << 16


@dataclass(frozen=True, eq=False)
class PromptRuns:
    """Rows of one prompt that follow each other: its ``code``, the first row (``start``) and their number (``length``); each [G]."""

    code: NDArray[np.int32]
    start: Ints
    length: Ints

    @classmethod
    def of(cls, code: NDArray[np.int32]) -> PromptRuns:
        """The runs of the rows whose prompts have these codes [R]."""
        start = np.append(0, np.flatnonzero(code[1:] != code[:-1]) + 1)[: len(code)]
        return cls(code[start], start, np.diff(start, append=len(code)))

    def num_candidates(self, num_prompts: int) -> Ints:
        """Rows of every prompt [P]."""
        counts = np.zeros(num_prompts, np.int64)
        np.add.at(counts, self.code, self.length)
        return counts

    def order(self, index: NDArray[np.integer]) -> Positions | None:
        """Rows in the order of code, then ``index`` [R]; None unless every prompt has one run, ``index`` ascending."""
        is_ascending = index[1:] > index[:-1]
        is_ascending[self.start[1:] - 1] = True
        if not is_ascending.all():
            return None
        run_of_code = np.full(int(self.code.max(initial=0)) + 1, -1)
        run_of_code[self.code] = np.arange(len(self.code))
        runs = run_of_code[run_of_code >= 0]
        if len(runs) != len(self.code):
            return None
        length = self.length[runs]
        shift = self.start[runs] - (np.cumsum(length) - length)
        rows = np.repeat(shift.astype(width_of(len(index))), length)
        for first in range(0, len(rows), SLICE):
            own = rows[first : first + SLICE]
            own += np.arange(first, first + len(own), dtype=rows.dtype)
        return rows


def width_of(count: int) -> type[np.signedinteger]:
    """The type of positions among ``count`` rows."""
    return np.int32 if count <= MAX_INT32 else np.int64


def order_of(runs: PromptRuns, code: NDArray[np.int32], index: NDArray[np.integer], ids: pa.Array) -> Positions:
    """Rows in the order of prompt, index and id; by ``ids`` only where prompt and index are equal."""
    order = runs.order(index)
    if order is not None:
        return order
    order = by_two(code, index)
    is_tie = (np.diff(code[order]) == 0) & (np.diff(index[order]) == 0)
    if is_tie.any():
        is_tied = np.zeros(len(code), dtype=bool)
        is_tied[order[:-1][is_tie]] = is_tied[order[1:][is_tie]] = True
        tied = np.flatnonzero(is_tied)
        place = np.zeros(len(code), np.int64)
        place[tied[sorted_positions(ids.take(pa.array(tied)))]] = np.arange(len(tied))
        order = np.lexsort((place, index, code))
    return order.astype(width_of(len(code)))


def ordinals_of(row: Positions, num_rows: int) -> Ints:
    """The place in ``row`` of every row [R], −1 for one that is not there; 64 bits wide, with which NumPy writes to places fastest."""
    ordinals = np.full(num_rows, -1)
    for start in range(0, len(row), SLICE):
        own = row[start : start + SLICE].astype(np.int64)
        ordinals[own] = np.arange(start, start + len(own))
    return ordinals


def by_two(code: NDArray[np.int32], index: NDArray[np.integer]) -> Ints:
    """Rows in the order of code, then index; one sort where both fit into one integer."""
    if not len(code):
        return np.zeros(0, np.int64)
    low, span = int(index.min()), int(index.max()) - int(index.min()) + 1
    if span < 2**31:
        return np.argsort(code.astype(np.int64) * span + (index - low), kind="stable")
    return np.lexsort((index, code))


def sorted_positions(texts: pa.Array) -> Ints:
    """Positions of ``texts`` in the order of their UTF-8 bytes."""
    words = equal_length_words(texts)
    if words is None:
        return pc.sort_indices(texts).to_numpy().astype(np.int64)
    first_word = words[0].astype(np.uint64)
    order = np.argsort(first_word)
    first = first_word[order]
    same = np.flatnonzero(first[1:] == first[:-1])
    if len(same):  # ties of the first word are ordered among themselves
        is_run = np.zeros(len(order), dtype=bool)
        is_run[same] = is_run[same + 1] = True
        places = np.flatnonzero(is_run)
        members = order[places]
        order[places] = members[np.lexsort([word[members].astype(np.uint64) for word in words[::-1]])]
    return order
