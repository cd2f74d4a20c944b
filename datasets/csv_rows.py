"""Reads a user's CSV: checks the columns, keeps line numbers, and raises errors that name the fix."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.errors import InputError, TableError


@dataclass(frozen=True)
class CsvRow:
    """One data row as written; ``line`` is the last line of the CSV that it occupies."""

    line: int
    columns: tuple[str, ...]
    fields: tuple[str, ...]

    def get(self, column: str) -> str:
        """The field of ``column``, empty where the CSV has no such column."""
        return self.fields[self.columns.index(column)] if column in self.columns else ""


def data_rows(table: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[CsvRow]:
    """Rows under the header of a UTF-8 CSV, without blank lines.

    Raises InputError where there is no such CSV and TableError where it is empty, not UTF-8, or its header lacks a required column
    or has an unknown or repeated one.
    """
    try:
        with open(table, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            columns = _checked_columns(table, next(reader, []), required, optional)
            for fields in reader:
                if fields:
                    yield CsvRow(reader.line_num, columns, tuple(fields))
    except UnicodeDecodeError as error:
        raise TableError(
            found=f"{table}: not UTF-8 text ({error.reason})",
            expected="a CSV in UTF-8",
            fix=f"iconv -f WINDOWS-1252 -t UTF-8 '{table}' > clips-utf8.csv",
        ) from error
    except csv.Error as error:
        raise TableError(
            found=f"{table}: {error}",
            expected="a comma-separated table",
            fix="put fields that hold commas, quotes or line breaks in double quotes",
        ) from error
    except OSError as error:
        raise InputError(
            found=f"{table}: {error.strerror}",
            expected=f"a CSV with columns {','.join(required)}",
            fix="correct the path",
        ) from error


def _checked_columns(
    table: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> tuple[str, ...]:
    """The header's columns, in its order. Raises TableError; see :func:`data_rows`."""
    known = (*required, *optional)
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if name not in known]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if not (missing or unknown or repeated):
        return tuple(header)
    problems = [f"no column {name!r}" for name in missing]
    problems += [f"unknown column {name!r}{_did_you_mean(name, known)}" for name in unknown]
    problems += [f"column {name!r} twice" for name in repeated]
    raise TableError(
        found=f"{table}: {'; '.join(problems) if header else 'an empty file'}",
        expected=f"the header line {','.join(required)} or {','.join(known)}",
        fix=f"make the first line of the CSV: {','.join(required)}",
    )


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.strip().lower(), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
