"""The score matrix: one row per metric and one column per candidate, in the order of the candidate index."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.datasets.metric_selection import check_metrics
from avpref.datasets.selection.candidate_index import CandidateIndex, read_candidate_index
from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.reused_memory import reused_memory
from avpref.datasets.selection.score_filling import DICTIONARIES, LACKING, PieceScores, Target, fill
from avpref.datasets.selection.selection_source import SelectionSource, in_order, num_rows, pieces
from avpref.domain import Metric
from avpref.errors import TableError

Floats = NDArray[np.float64]


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
    index, lookup = read_candidate_index(source)
    values = np.empty((len(metrics), len(index)))
    with ThreadPoolExecutor(source.threads) as pool:
        list(pool.map(lambda line: line.fill(np.nan), values))
    positions = {metric.name: number for number, metric in enumerate(metrics)}
    target = Target(lookup, positions, values, index.ordinal_of_row, num_rows(source.scores))
    reads = list(in_order(partial(fill, target), pieces(source.scores, DICTIONARIES), source.threads))
    unusable = pa.concat_tables([LACKING.empty_table(), *(part for read in reads for part in read.unusable)])
    is_complete, num_missing = np.ones(values.shape[1], dtype=bool), 0
    with ThreadPoolExecutor(source.threads) as pool:
        for is_missing in pool.map(np.isnan, values):
            if number := int(np.count_nonzero(is_missing)):
                is_complete &= ~is_missing
                num_missing += number
    matrix = ScoreMatrix(index, tuple(metrics), values, unusable, is_complete, source.threads)
    _refuse_faults(matrix, lookup, _Reads(reads, values.size - num_missing, source.training_only))
    return matrix


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
