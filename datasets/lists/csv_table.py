"""A user's CSV as an Arrow table of text columns; rows that cannot be read are refused with their lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from avpref.datasets.lists.csv_header import Header, separator_of
from avpref.datasets.lists.csv_records import LINES, printable, read_records
from avpref.datasets.lists.csv_text import CsvText, read_csv_text
from avpref.errors import TableError


@dataclass(frozen=True)
class RefusedLine:
    """A line that is no row of the table, with its beginning and the reason."""

    line: int
    shown: str
    reason: str


@dataclass(frozen=True)
class CsvTable:
    """The readable rows of a CSV, all columns as text, the line of each row, and the refused lines. ``text`` is the file's."""

    table: pa.Table
    lines: Sequence[int]
    refused: tuple[RefusedLine, ...]
    text: CsvText
    header: Header


def read_csv_table(path: Path, columns: Sequence[str]) -> CsvTable:
    """Read ``path``, whose separator is the one that gives most of ``columns``; see :mod:`avpref.datasets.lists.csv_rows`.

    Raises InputError and TableError as :func:`avpref.datasets.lists.csv_text.read_csv_text`, and TableError for an empty file and for
    a column that is listed twice.
    """
    text = read_csv_text(path)
    header = separator_of(text, columns)
    names = header.columns
    if not names:
        raise TableError(f"{path}: an empty file", "a header with the names of the columns", f"write {path.name} again")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        found = f"{path}: line {header.line}: columns listed twice: {', '.join(doubled)}"
        raise TableError(found, "each column once", f"rename or remove one of them in {path.name}")
    return _read_plain(text, header) or _read_records(text, header)


def _read_plain(text: CsvText, header: Header) -> CsvTable | None:
    """The table of a CSV without quotes, read by Arrow; None where it has quotes, NUL characters or rows of another length."""
    if '"' in text.text or "\0" in text.text or header.line != 1:
        return None
    types = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(header.columns, pa.string()), strings_can_be_null=False
    )
    parse = pyarrow.csv.ParseOptions(delimiter=header.separator, quote_char=False)
    try:
        table = pyarrow.csv.read_csv(io.BytesIO(text.text.encode()), parse_options=parse, convert_options=types)
    except pa.ArrowInvalid:
        return None
    lines = [number for number, line in enumerate(LINES.findall(text.text), 1) if line.strip("\r\n")][1:]
    if len(lines) != table.num_rows or tuple(table.column_names) != header.columns:
        return None
    return CsvTable(table, lines, (), text, header)


def _read_records(text: CsvText, header: Header) -> CsvTable:
    names, rows, lines, refused = header.columns, [], [], []
    for record in read_records(text.text, header.separator):
        if record.line <= header.line:
            continue
        fault = record.fault
        if not fault and len(record.fields) != len(names):
            fault = f"{len(record.fields)} fields where the header has {len(names)}"
        if not fault and any("\0" in field for field in record.fields):
            fault = "a NUL character"
        if fault:
            refused.append(RefusedLine(record.first_line, printable(record.fields[0]), fault))
        else:
            rows.append(record.fields)
            lines.append(record.line)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    table = pa.table([pa.array(column, pa.string()) for column in columns], names=list(names))
    return CsvTable(table, lines, tuple(refused), text, header)
