"""Checks of the rows of a file of scores: a row with a value that cannot be used is refused, and the others go on."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.csv_table import CsvTable, read_csv_table
from avpref.datasets.table_files import check_format, read_parquet_table
from avpref.errors import InputError, TableError

EMPTY = ("", "na", "n/a", "null", "none")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf(inity)?|nan)", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
MAX_SCORE = 1e150
"""Largest magnitude of a score: the square of a larger one, which its variance needs, is infinite."""
MAX_SIZE = 2**31 - 1
"""Largest height, width and number of frames: the product of two of them fits into 64 bits."""
MAX_INDEX = 2**63 - 1


@dataclass(frozen=True)
class RefusedScore:
    """A row that is not used: its number under the header, its line (CSV only), its candidate, and what is wrong."""

    row: int
    line: int | None
    candidate_id: str
    reason: str

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}: "
        return f"{line}row {self.row} {self.reason}"


@dataclass
class ScoreRows:
    """The columns of a file of scores, and the rows that were refused so far (row index from 0 to the reason).

    ``csv`` is the file if it is a CSV, with the line of each row and the lines that are no rows.
    """

    path: Path
    table: pa.Table
    csv: CsvTable | None = None
    reasons: dict[int, str] = field(default_factory=dict)

    def refuse(self, row: int, reason: str) -> None:
        """Refuse a row; the first reason is kept."""
        self.reasons.setdefault(row, reason)

    def refused(self) -> list[RefusedScore]:
        """The refused rows and lines, in the order of the file."""
        ids = (
            self.table["candidate_id"].to_pylist() if self.reasons and "candidate_id" in self.table.column_names else []
        )
        rows = [
            RefusedScore(
                row + 1,
                None if self.csv is None else self.csv.lines[row],
                printable(str(ids[row] if ids else "")),
                reason,
            )
            for row, reason in sorted(self.reasons.items())
        ]
        unread = () if self.csv is None else self.csv.refused
        lines = [RefusedScore(0, line.line, line.shown, f"cannot be read: {line.reason}") for line in unread]
        return sorted([*rows, *lines], key=lambda row: (row.line or 0, row.row))

    def kept(self, table: pa.Table) -> pa.Table:
        """``table``, of the same rows, without the refused ones."""
        if not self.reasons:
            return table
        return table.filter(pa.array([row not in self.reasons for row in range(table.num_rows)]))


def read_score_rows(path: Path, columns: Sequence[str]) -> ScoreRows:
    """The rows of a CSV (separated so that most of ``columns`` are there) or Parquet file; the columns of a CSV are text.

    Raises ConfigError for another suffix, InputError where there is no such file, TableError where it cannot be read.
    """
    check_format(path)
    if not os.path.isfile(path):  # false, not an error, for a path that the file system does not accept
        raise InputError(f"no file {path}", "a CSV or Parquet file of scores", "avpref scores export scores.csv")
    if path.suffix.lower() == ".parquet":
        return ScoreRows(path, read_parquet_table(path))
    csv = read_csv_table(path, columns)
    return ScoreRows(path, csv.table, csv)


def texts(rows: ScoreRows, name: str) -> pa.ChunkedArray:
    """Column ``name`` as text; rows without one are refused. Raises TableError for a type that has no text."""
    try:
        column = rows.table[name].cast(pa.string())
    except pa.ArrowException as error:
        raise _wrong_type(rows, name, "text") from error
    empty = pc.or_kleene(pc.is_null(column), pc.equal(pc.utf8_trim_whitespace(column), ""))
    for row in _rows_where(empty):
        rows.refuse(row, f"has no {name}")
    return pc.fill_null(column, "")


def numbers(rows: ScoreRows, name: str, expected: str = "no number") -> pa.ChunkedArray:
    """Column ``name`` as float64; empty cells are null, NaN and infinities stay. Rows with another value are refused."""
    column = rows.table[name]
    if _is_text(column.type):
        return _parsed(rows, name, _number, pa.float64(), expected)
    try:
        return column.cast(pa.float64(), safe=False)
    except pa.ArrowException as error:
        raise _wrong_type(rows, name, "numbers") from error


def scores(rows: ScoreRows, name: str) -> pa.ChunkedArray:
    """Column ``name`` as :func:`numbers`; rows with a number beyond :data:`MAX_SCORE` are refused too."""
    values = numbers(rows, name)
    is_large = pc.and_(pc.greater(pc.abs(values), MAX_SCORE), pc.is_finite(values))
    _refuse_where(rows, name, is_large, f"beyond {MAX_SCORE:g}, so that its variance is no number")
    return values


def whole_numbers(rows: ScoreRows, name: str, low: int, high: int, expected: str) -> pa.ChunkedArray:
    """Column ``name`` as int64. Rows without a whole number from ``low`` to ``high`` are refused as ``expected``."""
    expected = f"{expected} from {low} to {high}"
    column = rows.table[name]
    if pa.types.is_signed_integer(column.type):
        values = column.cast(pa.int64())
    elif _is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = _parsed(rows, name, _whole, pa.int64(), expected)
    else:
        raise _wrong_type(rows, name, "whole numbers")
    is_inside = pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))
    _refuse_where(rows, name, pc.invert(pc.fill_null(is_inside, False)), expected)
    return values


def durations(rows: ScoreRows, name: str, units_per_s: int) -> pa.ChunkedArray:
    """Column ``name`` as positive seconds that are at least half a unit and at most :data:`MAX_SIZE` units."""
    low, high = 0.5 / units_per_s, MAX_SIZE / units_per_s
    expected = f"no usable {name}, from {low:g} to {high:g} s"
    values = numbers(rows, name, expected)
    is_inside = pc.and_(pc.greater(values, low), pc.less_equal(values, high))
    _refuse_where(rows, name, pc.invert(pc.fill_null(is_inside, False)), expected)
    return values


def one_of(rows: ScoreRows, name: str, known: Sequence[str]) -> pa.ChunkedArray:
    """Column ``name`` as text; rows with a value that is not in ``known`` are refused."""
    column = pc.fill_null(rows.table[name].cast(pa.string()), "")
    is_known = pc.is_in(column, value_set=pa.array(known, pa.string()))
    _refuse_where(rows, name, pc.invert(is_known), f"none of {', '.join(known)}")
    return column


def refuse_doubled(rows: ScoreRows, keys: pa.ChunkedArray, reason: str) -> None:
    """Refuse every row whose key another row has too; it is unknown which of them is right. Refused rows do not count."""
    counts = pc.value_counts(keys.combine_chunks())
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    of_key: dict[str, list[int]] = {}
    for row in _rows_where(pc.is_in(keys, value_set=doubled)):
        if row not in rows.reasons:
            of_key.setdefault(keys[row].as_py(), []).append(row)
    for key, members in of_key.items():
        for row in members if len(members) > 1 else ():
            others = ", ".join(str(other + 1) for other in members if other != row)
            rows.refuse(row, f"has {printable(key)}, {reason} row {others}")


def require_rows(rows: ScoreRows) -> None:
    """Raises TableError if no row is left, with the first refusal."""
    refused = rows.refused()
    if refused and len(rows.reasons) == rows.table.num_rows:
        others = f"; {len(refused) - 1} other rows cannot be used either" if len(refused) > 1 else ""
        raise TableError(f"{rows.path}: {refused[0]}{others}", "usable values in the rows", f"edit {rows.path.name}")
    if not rows.table.num_rows:
        raise TableError(
            f"{rows.path} has a header and no rows", "at least two candidates of a prompt", "export it again"
        )


def _parsed(
    rows: ScoreRows, name: str, parse: Callable[[Any], Any], kind: pa.DataType, expected: str
) -> pa.ChunkedArray:
    """Column ``name`` as ``kind``: by Arrow where all values fit, else value by value; others are refused and null."""
    column = rows.table[name]
    if _is_text(column.type):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        is_empty = pc.is_in(pc.utf8_lower(text), value_set=pa.array(EMPTY))
        column = pc.if_else(is_empty, pa.scalar(None, pa.string()), text)
        try:
            return column.cast(kind)
        except pa.ArrowException:
            pass
    values = []
    for row, value in enumerate(column.to_pylist()):
        parsed = None if value is None else parse(value)
        if value is not None and parsed is None:
            comma = isinstance(value, str) and DECIMAL_COMMA.fullmatch(value)
            hint = "; write a point in place of the decimal comma" if comma else ""
            rows.refuse(row, f"has {name} {_shown(value)}: {expected}{hint}")
        values.append(parsed)
    return pa.chunked_array([pa.array(values, kind)])


def _number(value: str) -> float | None:
    return float(value) if NUMBER.fullmatch(value) else None


def _whole(value: str | int | float) -> int | None:
    """``value`` as an integer of 64 bits; None where it is none."""
    if isinstance(value, str):
        if not NUMBER.fullmatch(value):
            return None
        value = int(value) if value.lstrip("+-").isdecimal() else float(value)
    if isinstance(value, float) and (not math.isfinite(value) or not value.is_integer()):
        return None
    return int(value) if -MAX_INDEX <= value <= MAX_INDEX else None


def _refuse_where(rows: ScoreRows, name: str, mask: pa.ChunkedArray, expected: str) -> None:
    bad = _rows_where(mask)
    if bad:
        values = rows.table[name].take(pa.array(bad)).to_pylist()
        for row, value in zip(bad, values, strict=True):
            rows.refuse(row, f"has {name} {_shown(value)}: {expected}")


def _rows_where(mask: pa.ChunkedArray) -> list[int]:
    return list(pc.indices_nonzero(pc.fill_null(mask, False).cast(pa.uint8())).to_pylist())


def _shown(value: Any) -> str:
    return f"'{printable(value)}'" if isinstance(value, str) else repr(value)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _wrong_type(rows: ScoreRows, name: str, expected: str) -> TableError:
    found = f"{rows.path}: column {name} is of type {rows.table[name].type}"
    return TableError(found, f"a column of {expected}", f"write {name} as {expected}")
