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
ALL_OK = {"status": str(ScoreStatus.OK)}
NOT_FINITE = "not_finite"
LACKING = pa.schema([("position", pa.int64()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, eq=False)
class Target:
    """Where scores go: ``values`` [M, R], a column per row of the candidates and a line per position of a metric in ``positions``.

    ``is_kept`` [R + 1]: whether a row takes part, False in the last place; None: all rows do. ``num_rows``: rows of all scores, from
    which the place of a row's candidate is guessed.
    """

    lookup: IdLookup
    positions: dict[str, int]
    values: Floats
    is_kept: NDArray[np.bool_] | None
    num_rows: int


@dataclass(frozen=True, eq=False)
class PieceScores:
    """Number of score rows of the metrics that a piece has, those without usable number, and ids without candidate."""

    num_rows: int
    unusable: list[pa.Table]
    orphans: list[pa.Array]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a row group: ``id_codes`` and ``metric_codes`` [n] select from ``candidates`` and ``positions``; ``values`` [n]."""

    id_codes: Codes
    metric_codes: Codes
    values: Floats
    candidates: Ints
    positions: Ints

    def part(self, start: int, end: int) -> _Rows:
        """The rows from ``start`` to ``end``."""
        rows = slice(start, end)
        return _Rows(self.id_codes[rows], self.metric_codes[rows], self.values[rows], self.candidates, self.positions)


def fill(target: Target, piece: Piece) -> PieceScores:
    """Copy the scores of a piece into the matrix. May be called from several threads, for different pieces."""
    num_rows, hint = 0, piece.first_row * len(target.lookup) // max(target.num_rows, 1)
    unusable: list[pa.Table] = []
    orphans: list[pa.Array] = []
    for group, columns in piece.read(COLUMNS, unless=ALL_OK):
        if not columns.num_rows:
            continue
        ids, metrics = (_encoded(columns[name]) for name in ("candidate_id", "metric"))
        place = target.lookup.find(ids.dictionary, hint)
        hint = _next_hint(ids, place)
        positions = np.array([target.positions.get(name, -1) for name in metrics.dictionary.to_pylist()], np.int64)
        values = columns["value"].to_numpy()
        candidates = place if target.is_kept is None else np.where(target.is_kept[place], place, -1)
        rows = _Rows(ids.indices.to_numpy(), metrics.indices.to_numpy(), values, candidates, positions)
        statuses = _statuses(columns)
        is_usual = (statuses is None or statuses.is_all_ok) and (candidates >= 0).all() and (positions >= 0).all()
        is_finite = np.isfinite(values)
        if is_usual and is_finite.all():
            _copy_all(target, rows)
            num_rows += len(values)
            continue
        candidate, position = candidates[rows.id_codes], positions[rows.metric_codes]
        is_orphan = (place[rows.id_codes] < 0) & (position >= 0)
        if is_orphan.any():
            orphans.append(pc.unique(ids.filter(pa.array(is_orphan)).cast(pa.string())))
        is_wanted = (candidate >= 0) & (position >= 0)
        is_ok = np.ones(len(values), dtype=bool) if statuses is None else statuses.is_ok
        kept = is_wanted & is_ok & is_finite
        target.values[position[kept], candidate[kept]] = values[kept]
        num_rows += int(is_wanted.sum())
        bad = is_wanted & ~(is_ok & is_finite)
        if bad.any():
            details = piece.read_group(group, ("reason",))["reason"].cast(pa.string()).filter(pa.array(bad))
            reason = _reasons(statuses, bad)
            unusable.append(pa.table([position[bad], candidate[bad], reason, details], schema=LACKING))
    return PieceScores(num_rows, unusable, orphans)


@dataclass(frozen=True, eq=False)
class _Statuses:
    """The statuses of the rows of a row group; ``is_ok_code``: for each of the dictionary."""

    texts: pa.DictionaryArray
    is_ok_code: NDArray[np.bool_]

    @property
    def is_all_ok(self) -> bool:
        return bool(self.is_ok_code.all())

    @property
    def is_ok(self) -> NDArray[np.bool_]:
        """Whether the status of a row is ok [n]."""
        return self.is_ok_code[self.texts.indices.to_numpy()]


def _statuses(columns: pa.Table) -> _Statuses | None:
    """None where the column was not read because every row is ok."""
    if "status" not in columns.column_names:
        return None
    texts = _encoded(columns["status"])
    return _Statuses(texts, np.array([name == ScoreStatus.OK for name in texts.dictionary.to_pylist()], bool))


def _reasons(statuses: _Statuses | None, bad: NDArray[np.bool_]) -> pa.Array:
    """Why the rows of ``bad`` have no usable number: their status, or a number that is not finite."""
    if statuses is None:
        return pa.repeat(pa.scalar(NOT_FINITE), int(bad.sum()))
    return pc.if_else(pa.array(statuses.is_ok[bad]), NOT_FINITE, statuses.texts.filter(pa.array(bad)).cast(pa.string()))


def _next_hint(ids: pa.DictionaryArray, place: Ints) -> int:
    """The position with which the next row group probably begins: it may be that of the last candidate again."""
    if not len(place):
        return 0
    is_open = len(ids) and ids.indices[len(ids) - 1].as_py() == len(place) - 1
    return int(place[-1]) + (0 if is_open else 1)


def _copy_all(target: Target, rows: _Rows) -> None:
    """Copy rows that all have a usable number, a candidate and a metric of the matrix."""
    start, size, count = _block(rows)
    end = start + size * count
    for rest in (rows.part(0, start), rows.part(end, len(rows.values))):
        target.values[rows.positions[rest.metric_codes], rows.candidates[rest.id_codes]] = rest.values
    if count:
        candidates = _as_slice(rows.candidates[rows.id_codes[start:end:size]])
        block = rows.values[start:end].reshape(count, size)
        for line, code in zip(block.T, rows.metric_codes[start : start + size], strict=True):
            target.values[rows.positions[code]][candidates] = line


def _as_slice(places: Ints) -> slice | Ints:
    """``places`` [n], as a slice where they follow each other."""
    first, count = int(places[0]), len(places)
    return slice(first, first + count) if np.array_equal(places, np.arange(first, first + count)) else places


def _block(rows: _Rows) -> tuple[int, int, int]:
    """First row, rows per candidate and number of candidates of the rows that repeat the same metrics for each; (0, 1, 0) if none.

    The rows of the first candidate may begin in the row group before, those of the last one may end in the next.
    """
    none, codes = (0, 1, 0), rows.id_codes
    is_change = codes[1:] != codes[:-1]
    first = int(is_change.argmax()) if len(is_change) else 0
    second = first + 1 + int(is_change[first + 1 :].argmax()) if first + 1 < len(is_change) else 0
    if second <= first or not is_change[second]:
        return none
    start, size = first + 1, second - first
    count = (len(codes) - start) // size
    end = start + size * count
    inside = is_change[start : end - 1]
    inside[size - 1 :: size] = False  # between candidates the id may change or not
    metrics = rows.metric_codes[start:end]
    is_block = not inside.any() and np.array_equal(metrics[size:], metrics[:-size])
    return (start, size, count) if is_block else none


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()
