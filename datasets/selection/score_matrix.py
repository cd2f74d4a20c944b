"""The score matrix: one row per metric and one column per candidate, in the order of the candidate index.

Ids are compared once per row group and distinct candidate: Parquet stores them in dictionaries, and all later work is on integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avpref.datasets.metric_selection import check_metrics
from avpref.datasets.selection.candidate_index import CandidateIndex, read_candidate_index
from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.selection_source import Piece, SelectionSource, in_order, pieces
from avpref.domain import Metric, ScoreStatus
from avpref.errors import TableError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DICTIONARIES = ("candidate_id", "metric", "status", "reason")
COLUMNS = ("candidate_id", "metric", "value", "status")
NOT_FINITE = "not_finite"
LACKING = pa.schema([("position", pa.int64()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])


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


def read_matrix(source: SelectionSource, metrics: Sequence[Metric]) -> ScoreMatrix:
    """Gather the scores of ``metrics``. Score rows of other metrics are ignored.

    Raises ConfigError (see :func:`avpref.datasets.metric_selection.check_metrics`) or TableError: doubled candidates, prompts or
    scores; scores without candidate; candidates without prompt (checked only where there is a prompt table).
    """
    check_metrics(metrics)
    index = read_candidate_index(source)
    lookup, values = index.lookup(), np.full((len(metrics), len(index.ordinal_of_row)), np.nan)
    target = _Target(
        lookup,
        {metric.name: number for number, metric in enumerate(metrics)},
        values,
        np.append(index.ordinal_of_row >= 0, False),
    )
    reads = list(in_order(partial(_fill, target), pieces(source.scores, DICTIONARIES), source.threads))
    unusable = pa.concat_tables([LACKING.empty_table(), *(part for read in reads for part in read.unusable)])
    values = _permuted(values, index.row)
    is_complete = np.ones(values.shape[1], dtype=bool)
    for line in values:
        is_complete &= ~np.isnan(line)
    matrix = ScoreMatrix(index, tuple(metrics), values, _by_ordinal(unusable, index), is_complete, source.threads)
    _refuse_faults(matrix, lookup, reads, source.training_only)
    return matrix


@dataclass(frozen=True, eq=False)
class _Target:
    """Where scores go: ``values`` [M, R] in the order of the files; ``is_kept`` [R + 1]: rows that are not left out."""

    lookup: IdLookup
    positions: dict[str, int]
    values: Floats
    is_kept: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Read:
    """Score rows of the metrics that a piece has, those without usable number, and ids without candidate."""

    num_rows: int
    unusable: list[pa.Table]
    orphans: list[pa.Array]


def _fill(target: _Target, piece: Piece) -> _Read:
    """Copy the scores of a piece into the matrix."""
    num_rows, hint = 0, 0
    unusable: list[pa.Table] = []
    orphans: list[pa.Array] = []
    for group, columns in piece.read(COLUMNS):
        if not columns.num_rows:
            continue
        ids, metrics, statuses = (_encoded(columns[name]) for name in ("candidate_id", "metric", "status"))
        found = target.lookup.find(ids.dictionary, hint)
        hint = int(found[-1]) + 1 if len(found) else 0
        if hint and len(ids) and ids.indices[-1].as_py() == len(found) - 1:
            hint -= 1  # the next row group may begin with the same candidate
        positions = np.array([target.positions.get(name, -1) for name in metrics.dictionary.to_pylist()], np.int64)
        row, position = found[ids.indices.to_numpy()], positions[metrics.indices.to_numpy()]
        is_orphan = (row < 0) & (position >= 0)
        if is_orphan.any():
            orphans.append(pc.unique(ids.filter(pa.array(is_orphan)).cast(pa.string())))
        is_wanted = (row >= 0) & (position >= 0)
        is_wanted &= target.is_kept[row]
        number = columns["value"].to_numpy()
        is_ok = np.array([name == ScoreStatus.OK for name in statuses.dictionary.to_pylist()], bool)[
            statuses.indices.to_numpy()
        ]
        is_usable = is_ok & np.isfinite(number)
        kept = is_wanted & is_usable
        target.values.ravel()[position[kept] * target.values.shape[1] + row[kept]] = number[kept]
        num_rows += int(is_wanted.sum())
        bad = is_wanted & ~is_usable
        if bad.any():
            details = piece.read_group(group, ("reason",))["reason"].cast(pa.string()).filter(pa.array(bad))
            reason = pc.if_else(pa.array(is_ok[bad]), NOT_FINITE, statuses.filter(pa.array(bad)).cast(pa.string()))
            unusable.append(pa.table([position[bad], row[bad], reason, details], schema=LACKING))
    return _Read(num_rows, unusable, orphans)


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()


def _permuted(values: Floats, row: Ints) -> Floats:
    """Columns of ``values`` in the order of ``row``, in the same memory."""
    for line in values:
        line[: len(row)] = line[row]
    return values[:, : len(row)]


def _by_ordinal(unusable: pa.Table, index: CandidateIndex) -> pa.Table:
    ordinal = index.ordinal_of_row[unusable["row"].to_numpy()]
    return unusable.set_column(1, "ordinal", pa.array(ordinal))


def _refuse_faults(matrix: ScoreMatrix, lookup: IdLookup, reads: Sequence[_Read], training_only: bool) -> None:
    index, prompts = matrix.index, matrix.index.prompts
    cells = matrix.unusable["position"].to_numpy() * len(index) + matrix.unusable["ordinal"].to_numpy()
    num_usable = sum(len(line) - int(np.isnan(line).sum()) for line in matrix.values)
    hidden = matrix.values[matrix.unusable["position"].to_numpy(), matrix.unusable["ordinal"].to_numpy()]
    num_hidden = len(hidden) - int(np.isnan(hidden).sum())
    orphans = {name for read in reads for part in read.orphans for name in part.to_pylist()}
    is_orphan = ~prompts.is_listed[index.prompt] if prompts.is_listed.any() else np.zeros(0, dtype=bool)
    counts = {
        "doubled candidates": lookup.num_doubled,
        "doubled scores": sum(read.num_rows for read in reads) - num_usable - len(np.unique(cells)) + num_hidden,
        "orphan scores": 0 if training_only else len(orphans),
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
