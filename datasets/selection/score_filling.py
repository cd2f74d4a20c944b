"""Copies score rows into the score matrix, a row group at a time.

Ids are compared once per row group and distinct candidate: Parquet stores them in dictionaries, and all later work is on integers.
Rows that repeat the same metrics for one candidate after another are copied as a block; any other order is copied row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.selection_source import Piece
from avpref.domain import ScoreStatus

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.integer]

DICTIONARIES = ("candidate_id", "metric", "status", "reason")
COLUMNS = ("candidate_id", "metric", "value", "status")
NOT_FINITE = "not_finite"
LACKING = pa.schema(
    [("position", pa.int64()), ("ordinal", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
)


@dataclass(frozen=True, eq=False)
class Target:
    """Where scores go: ``values`` [M, N], a column per ordinal and a line per position of a metric in ``positions``.

    ``ordinals`` [R + 1]: the ordinal of every row of the candidates, −1 for one that is left out and in the last place.
    """

    lookup: IdLookup
    positions: dict[str, int]
    values: Floats
    ordinals: Ints


@dataclass(frozen=True, eq=False)
class PieceScores:
    """Number of score rows of the metrics that a piece has, those without usable number, and ids without candidate."""

    num_rows: int
    unusable: list[pa.Table]
    orphans: list[pa.Array]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a row group: ``id_codes`` and ``metric_codes`` [n] select from ``ordinals`` and ``positions``; ``values`` [n]."""

    id_codes: Codes
    metric_codes: Codes
    values: Floats
    ordinals: Ints
    positions: Ints

    def part(self, start: int, end: int) -> _Rows:
        """The rows from ``start`` to ``end``."""
        rows = slice(start, end)
        return _Rows(self.id_codes[rows], self.metric_codes[rows], self.values[rows], self.ordinals, self.positions)


def fill(target: Target, piece: Piece) -> PieceScores:
    """Copy the scores of a piece into the matrix. May be called from several threads, for different pieces."""
    num_rows, hint = 0, 0
    unusable: list[pa.Table] = []
    orphans: list[pa.Array] = []
    for group, columns in piece.read(COLUMNS):
        if not columns.num_rows:
            continue
        ids, metrics, statuses = (_encoded(columns[name]) for name in ("candidate_id", "metric", "status"))
        place = target.lookup.find(ids.dictionary, hint)
        id_codes, status_codes = ids.indices.to_numpy(), statuses.indices.to_numpy()
        hint = int(place[-1]) + 1 if len(place) else 0
        if hint and len(ids) and id_codes[-1] == len(place) - 1:
            hint -= 1  # the next row group may begin with the same candidate
        positions = np.array([target.positions.get(name, -1) for name in metrics.dictionary.to_pylist()], np.int64)
        is_ok = np.array([name == ScoreStatus.OK for name in statuses.dictionary.to_pylist()], bool)
        values = columns["value"].to_numpy()
        rows = _Rows(id_codes, metrics.indices.to_numpy(), values, target.ordinals[place], positions)
        is_finite = np.isfinite(values)
        if is_ok.all() and is_finite.all() and (rows.ordinals >= 0).all() and (positions >= 0).all():
            _copy_all(target, rows)
            num_rows += len(values)
            continue
        ordinal, position = rows.ordinals[rows.id_codes], positions[rows.metric_codes]
        is_orphan = (place[rows.id_codes] < 0) & (position >= 0)
        if is_orphan.any():
            orphans.append(pc.unique(ids.filter(pa.array(is_orphan)).cast(pa.string())))
        is_wanted = (ordinal >= 0) & (position >= 0)
        is_ok_row = is_ok[status_codes]
        kept = is_wanted & is_ok_row & is_finite
        target.values[position[kept], ordinal[kept]] = values[kept]
        num_rows += int(is_wanted.sum())
        bad = is_wanted & ~(is_ok_row & is_finite)
        if bad.any():
            details = piece.read_group(group, ("reason",))["reason"].cast(pa.string()).filter(pa.array(bad))
            reason = pc.if_else(pa.array(is_ok_row[bad]), NOT_FINITE, statuses.filter(pa.array(bad)).cast(pa.string()))
            unusable.append(pa.table([position[bad], ordinal[bad], reason, details], schema=LACKING))
    return PieceScores(num_rows, unusable, orphans)


def _copy_all(target: Target, rows: _Rows) -> None:
    """Copy rows that all have a usable number, a candidate and a metric of the matrix."""
    start, size, count = _block(rows)
    end = start + size * count
    for rest in (rows.part(0, start), rows.part(end, len(rows.values))):
        target.values[rows.positions[rest.metric_codes], rows.ordinals[rest.id_codes]] = rest.values
    if count:
        ordinals = rows.ordinals[rows.id_codes[start:end:size]]
        numbers = rows.values[start:end].reshape(count, size)
        for number, code in enumerate(rows.metric_codes[start : start + size]):
            target.values[rows.positions[code]][ordinals] = numbers[:, number]


def _block(rows: _Rows) -> tuple[int, int, int]:
    """First row, rows per candidate and number of candidates of the rows that repeat the same metrics for each; (0, 1, 0) if none.

    The rows of the first candidate may begin in the row group before, those of the last one may end in the next.
    """
    none, codes = (0, 1, 0), rows.id_codes
    changes = np.flatnonzero(codes[1:] != codes[:-1])[:2] + 1
    if len(changes) < 2:
        return none
    start, size = int(changes[0]), int(changes[1] - changes[0])
    count = (len(codes) - start) // size
    end = start + size * count
    candidates, metrics = (part[start:end].reshape(count, size) for part in (codes, rows.metric_codes))
    is_block = (candidates == candidates[:, :1]).all() and (metrics == metrics[:1]).all()
    return (start, size, count) if is_block else none


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()
