"""Records of a delimited text with their lines; a record with a broken quote costs one line and not the rest of the file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
SHOWN_CHARS = 60


@dataclass(frozen=True)
class Record:
    """Fields of a record, or the ``fault`` for which it has none. It occupies the lines ``first_line`` to ``line`` (from 1)."""

    first_line: int
    line: int
    fields: tuple[str, ...]
    fault: str = ""


class _LineReader:
    """Iterator over lines whose position can be set."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines, self.position = lines, 0

    def __iter__(self) -> _LineReader:
        return self

    def __next__(self) -> str:
        if self.position >= len(self.lines):
            raise StopIteration
        self.position += 1
        return self.lines[self.position - 1]


def read_records(text: str, separator: str) -> Iterator[Record]:
    """The records of ``text`` in order, without empty lines.

    Where a quote is not closed, or is closed inside its field, the record is the line in which it begins, with a fault and with
    that line as its only field; reading continues with the next line.
    """
    reader = _LineReader(LINES.findall(text))
    records = csv.reader(reader, delimiter=separator, strict=True)
    while True:
        start = reader.position
        try:
            fields = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            is_long = reader.position - start > 1 or "unexpected end" in str(error)
            line = reader.lines[start].rstrip("\r\n")
            yield Record(start + 1, start + 1, (line,), _fault(str(error), is_long))
            reader.position = start + 1
            records = csv.reader(reader, delimiter=separator, strict=True)
            continue
        if fields:
            yield Record(start + 1, reader.position, tuple(fields))


def _fault(message: str, is_long: bool) -> str:
    if is_long:
        return 'a quote (") that is opened and not closed; write a quote inside a quoted field twice'
    if "field limit" in message:
        return f"a field of more than {csv.field_size_limit()} characters"
    return 'text after a closing quote ("); write a quote inside a quoted field twice'


def printable(value: str) -> str:
    """The first :data:`SHOWN_CHARS` characters of ``value``, those that cannot be printed as escapes."""
    shown = value if len(value) <= SHOWN_CHARS else value[: SHOWN_CHARS - 1] + "…"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)
