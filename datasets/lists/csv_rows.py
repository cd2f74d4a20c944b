"""Reads a user's CSV: encoding, separator and columns, rows with their lines and faults, and errors that name the fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.datasets.lists.csv_header import Header, read_header
from avpref.datasets.lists.csv_records import Record, printable, read_records
from avpref.datasets.lists.csv_text import read_csv_text


@dataclass(frozen=True)
class CsvRow:
    """One data row as written; ``line`` is the last line of the CSV that it occupies.

    ``fault`` is the reason why the fields cannot be used (another number of fields than the header has, a quote that is not
    closed, a NUL character), empty for a usable row.
    """

    line: int
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    fault: str = ""

    def get(self, column: str) -> str:
        """The field of ``column``, empty where the CSV has no such column."""
        return self.fields[self.columns.index(column)] if column in self.columns else ""

    @property
    def shown(self) -> str:
        """The beginning of the first field, for messages."""
        return printable(self.fields[0])


def data_rows(table: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[CsvRow]:
    """Rows under the header of a CSV, without blank lines.

    The encoding is UTF-8, or UTF-16 or UTF-32 with a byte order mark; the separator is a comma, semicolon, tab or vertical bar,
    whichever gives the columns. Raises InputError where there is no such CSV and TableError where it is empty, in another
    encoding, or its header lacks a required column or has an unknown or repeated one.
    """
    text = read_csv_text(table)
    header = read_header(text, required, optional)
    for record in read_records(text.text, header.separator):
        if record.line > header.line:
            yield CsvRow(record.line, header.columns, record.fields, _fault(record, header))


def _fault(record: Record, header: Header) -> str:
    if record.fault:
        return record.fault
    if len(record.fields) != len(header.columns):
        mark = "comma" if header.separator == "," else repr(header.separator)
        return f"{len(record.fields)} fields where the header has {len(header.columns)} (a {mark} outside quotes?)"
    for name, field in zip(header.columns, record.fields, strict=True):
        if "\0" in field:
            return f"a NUL character in column {name!r}: {printable(field)}"
    return ""
