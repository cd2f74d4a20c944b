"""The score matrix: one row per metric and one column per candidate, in the order of the candidate index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.datasets.metric_selection import check_metrics
from avpref.datasets.population import has_missing
from avpref.datasets.reused_memory import reused_memory
from avpref.datasets.selection.candidate_index import CandidateIndex, Candidates, index_of, read_candidates
from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.score_filling import DICTIONARIES, LACKING, PieceScores, Target, fill
from avpref.datasets.selection.selection_source import SelectionSource, in_order, num_rows, pieces
from avpref.domain import Metric
from avpref.errors import TableError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Result = TypeVar("Result")

SLICE = 1 << 18
"""Scores of a metric that a thread puts into order at once."""


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """``values`` [M, N]: raw scores, NaN where there is no usable one: status ok and a finite value.

    ``unusable``: columns ``position`` (of the metric), ``ordinal``, ``reason`` and ``detail`` of score rows that have no usable
    number. ``is_complete`` [N]: whether a candidate has a usable score of every metric.
    """

    index: CandidateIndex
    metrics: tuple[Metric, ...]
    values: Floats
    unusable: pa.Table
    is_complete: NDArray[np.bool_]
    threads: int


@reused_memory()
def read_matrix(source: SelectionSource, metrics: Sequence[Metric]) -> ScoreMatrix:
    """Gather the scores of ``metrics``. Score rows of other metrics are ignored.

    Raises ConfigError (see :func:`avpref.datasets.metric_selection.check_metrics`) or TableError: doubled candidates, prompts or
    scores; scores without candidate; candidates without prompt (checked only where there is a prompt table).
    """
    check_metrics(metrics)
    candidates = read_candidates(source)
    lookup = candidates.lookup()
    lines = np.empty((len(metrics) + 1, len(lookup)))
    with ThreadPoolExecutor(1) as beside:  # the order of the candidates is found while their scores are read
        ordered = beside.submit(_ordered, source, candidates)
        beside.submit(lambda: lookup.num_doubled)
        _each(lambda line: line.fill(np.nan), lines[1:], source.threads)
        is_kept = ordered.result().is_kept() if source.training_only else None
        positions = {metric.name: number for number, metric in enumerate(metrics)}
        target = Target(lookup, positions, lines[1:], is_kept, num_rows(source.scores))
        reads = list(in_order(partial(fill, target), pieces(source.scores, DICTIONARIES), source.threads))
        order = ordered.result()
    index, ordinal_of_row = order.index, order.ordinal_of_row
    values = _in_index_order(lines, order, source.threads)
    is_complete, num_missing = np.ones(len(index), dtype=bool), 0
    for is_missing in _each(_missing, values, source.threads):
        if is_missing is not None:
            is_complete &= ~is_missing
            num_missing += int(np.count_nonzero(is_missing))
    unusable = pa.concat_tables([LACKING.empty_table(), *(part for read in reads for part in read.unusable)])
    ordinals = pa.array(ordinal_of_row[unusable["row"].to_numpy()])
    unusable = unusable.drop_columns("row").append_column("ordinal", ordinals)
    matrix = ScoreMatrix(index, tuple(metrics), values, unusable, is_complete, source.threads)
    _refuse_faults(matrix, lookup, _Reads(reads, values.size - num_missing, source.training_only))
    return matrix


def _each(function: Callable[[Floats], Result], lines: Floats, threads: int) -> list[Result]:
    """``function`` of every line."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, lines))


@dataclass(frozen=True, eq=False)
class _Order:
    """The index, the ordinal of every row of the candidates [R], and whether all rows are in the order of the index already."""

    index: CandidateIndex
    ordinal_of_row: Ints
    is_that_of_rows: bool

    def is_kept(self) -> NDArray[np.bool_]:
        """Whether a row of the candidates is in the index [R + 1]; False in the last place."""
        return np.append(self.ordinal_of_row >= 0, False)


def _ordered(source: SelectionSource, candidates: Candidates) -> _Order:
    index = index_of(source, candidates)
    row = index.row
    is_that_of_rows = len(row) == len(index.row_ids) and bool((row[1:] > row[:-1]).all())
    return _Order(index, index.ordinal_of_row(), is_that_of_rows)


def _in_index_order(lines: Floats, order: _Order, threads: int) -> Floats:
    """Lines 1 to M of ``lines`` [M + 1, R] in the order of the index [M, N], in the same memory: each line is written to the one
    before it, from which the scores were taken already."""
    if order.is_that_of_rows:
        return lines[1:]
    ordinal_of_row, num_rows, num_candidates = order.ordinal_of_row, len(order.ordinal_of_row), len(order.index)

    def write(ordered: Floats, line: Floats, start: int) -> None:
        ordinals, scores = ordinal_of_row[start : start + SLICE], line[start : start + SLICE]
        if num_candidates < num_rows:
            ordinals, scores = ordinals[ordinals >= 0], scores[ordinals >= 0]
        ordered[ordinals] = scores

    with ThreadPoolExecutor(threads) as pool:
        for ordered, line in pairwise(lines):
            list(pool.map(partial(write, ordered, line), range(0, num_rows, SLICE)))
    return lines[:-1, :num_candidates]


def _missing(line: Floats) -> NDArray[np.bool_] | None:
    """Whether a score is missing [N]; None where there is none."""
    return np.isnan(line) if has_missing(line) else None


@dataclass(frozen=True, eq=False)
class _Reads:
    """The scores that were read, and how many cells of the matrix have a number."""

    pieces: Sequence[PieceScores]
    num_usable: int
    training_only: bool


def _refuse_faults(matrix: ScoreMatrix, lookup: IdLookup, reads: _Reads) -> None:
    index, prompts = matrix.index, matrix.index.prompts
    cells = matrix.unusable["position"].to_numpy() * len(index) + matrix.unusable["ordinal"].to_numpy()
    hidden = matrix.values[matrix.unusable["position"].to_numpy(), matrix.unusable["ordinal"].to_numpy()]
    num_hidden = len(hidden) - int(np.isnan(hidden).sum())
    orphans = {name for read in reads.pieces for part in read.orphans for name in part.to_pylist()}
    num_doubled = sum(read.num_rows for read in reads.pieces) - reads.num_usable - len(np.unique(cells)) + num_hidden
    is_orphan = ~prompts.is_listed[index.prompt] if prompts.is_listed.any() else np.zeros(0, dtype=bool)
    counts = {
        "doubled candidates": lookup.num_doubled,
        "doubled scores": num_doubled,
        "orphan scores": 0 if reads.training_only else len(orphans),
        "doubled prompts": prompts.num_doubled,
        "orphan candidates": int(is_orphan.sum()),
    }
    faults = [f"{count} {name}" for name, count in counts.items() if count]
    if faults:
        raise TableError(
            f"tables that do not belong together: {', '.join(faults)}",
            "unique candidates and prompts, one score per candidate and metric, each with its candidate and prompt",
            "list the files of one sealed table version each",
        )
