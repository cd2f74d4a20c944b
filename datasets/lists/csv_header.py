"""The header of a user's CSV: its separator and columns, or an error with the command that corrects it."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from avpref.datasets.lists.csv_records import Record, read_records
from avpref.datasets.lists.csv_text import CsvText, corrected_path, literal
from avpref.errors import TableError

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n")
"""First line with which a spreadsheet program announces the separator."""
PYTHON_ENCODINGS = {"utf-8": "utf-8-sig", "utf-16-le": "utf-16", "utf-16-be": "utf-16"}


@dataclass(frozen=True)
class Header:
    """The columns in their order, the separator, and the last line of the header."""

    columns: tuple[str, ...]
    separator: str
    line: int


def read_header(text: CsvText, required: Sequence[str], optional: Sequence[str]) -> Header:
    """The header of ``text``. Raises TableError for an empty file and for missing, unknown and repeated columns."""
    known = (*required, *optional)
    readings = _readings(text, known)
    fitting = [header for header in readings if not _problems(header.columns, required, known)]
    if fitting:
        return fitting[0]
    header = max(readings, key=lambda header: sum(_plain(name) in known for name in header.columns))
    raise _refusal(text, header, required, known)


def separator_of(text: CsvText, required: Sequence[str]) -> Header:
    """The header under the separator that gives most of the columns ``required``; a comma if none does."""
    readings = _readings(text, required)
    return max(readings, key=lambda header: sum(_plain(name) in required for name in header.columns))


def rename_command(text: CsvText, header: Header, columns: Sequence[str]) -> str:
    """The shell command that writes the CSV again with ``columns`` in its header line."""
    source, target = shlex.quote(str(text.path)), shlex.quote(str(corrected_path(text.path)))
    line = header.separator.join(columns).replace("\\", r"\\").replace("/", r"\/").replace("&", r"\&")
    script = shlex.quote(f"{header.line}s/.*/{line}/")
    if text.encoding == "utf-8":
        return f"sed {script} {source} > {target}"
    return f"iconv -f {text.encoding.rpartition('-')[0].upper()} -t UTF-8 {source} | sed {script} > {target}"


def _separators(text: CsvText) -> Sequence[str]:
    announced = SEPARATOR_LINE.match(text.text)
    return [announced.group(1)] if announced else SEPARATORS


def _readings(text: CsvText, names: Sequence[str]) -> list[Header]:
    """The header under every separator under which its quotes are right.

    Raises TableError where they are wrong under a separator and no other gives any of ``names``.
    """
    readings, errors = [], []
    for separator in _separators(text):
        try:
            readings.append(_header(text, separator))
        except TableError as error:
            errors.append(error)
    if errors and not any(_plain(column) in names for header in readings for column in header.columns):
        raise errors[0]
    return readings


def _header(text: CsvText, separator: str) -> Header:
    skipped = 1 if SEPARATOR_LINE.match(text.text) else 0
    records = (record for record in read_records(text.text, separator) if record.line > skipped)
    record = next(records, Record(1, 1, ()))
    if record.fault:
        raise TableError(
            f"{text.path}: line {record.first_line}: {record.fault}",
            "a header line with the names of the columns",
            f"correct the quotes in line {record.first_line} of {text.path.name}",
        )
    return Header(record.fields, separator, record.line)


def _problems(header: Sequence[str], required: Sequence[str], known: Sequence[str]) -> list[str]:
    problems = [f"no column {name!r}" for name in required if name not in header]
    problems += [f"unknown column {name!r}{_did_you_mean(name, known)}" for name in header if name not in known]
    return problems + [f"column {name!r} twice" for name in sorted({name for name in header if header.count(name) > 1})]


def _refusal(text: CsvText, header: Header, required: Sequence[str], known: Sequence[str]) -> TableError:
    expected = f"the header line {','.join(required)} or {','.join(known)}"
    if not header.columns:
        return TableError(
            f"{text.path}: an empty file", expected, f"make the first line of the CSV: {','.join(required)}"
        )
    problems = "; ".join(_problems(header.columns, required, known))
    return TableError(
        f"{text.path}: line {header.line}: {problems}", expected, _correction(text, header, required, known)
    )


def _correction(text: CsvText, header: Header, required: Sequence[str], known: Sequence[str]) -> str:
    """The command that corrects the header, or the edit where it cannot be guessed."""
    names = [_meant(name, known) for name in header.columns]
    distinct = [name for name in names if name in known]
    if set(required) <= set(distinct) and len(set(distinct)) == len(distinct):
        if len(distinct) == len(names):
            return rename_command(text, header, names)
        return _selection_command(text, header, names, distinct)
    if len(header.columns) == len(required) and (text.path.parent / header.columns[0]).is_file():
        line = shlex.quote(header.separator.join(required))
        return (
            f"the first line is a row; add a header: (echo {line}; cat {shlex.quote(str(text.path))}) > "
            + shlex.quote(str(corrected_path(text.path)))
        )
    return f"make the first line of the CSV: {','.join(required)}"


def _selection_command(text: CsvText, header: Header, names: Sequence[str], kept: Sequence[str]) -> str:
    """The shell command that writes the CSV again with the columns ``kept`` alone; ``names`` are the meanings of all columns."""
    encoding = PYTHON_ENCODINGS.get(text.encoding, "utf-32")
    indices = [list(names).index(name) for name in kept]
    code = (
        f'import csv; rows = list(csv.reader(open({literal(text.path)}, encoding="{encoding}", newline=""),'
        f" delimiter={literal(header.separator)}))[{header.line}:];"
        f' out = csv.writer(open({literal(corrected_path(text.path))}, "w", encoding="utf-8", newline=""));'
        f" out.writerow({json.dumps(list(kept))}); out.writerows([row[i] for i in {indices}] for row in rows if row)"
    )
    return f"python3 -c {shlex.quote(code)}"


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(_plain(name), known, n=1)
    return close[0] if close else name


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().lower()


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    meant = _meant(name, known)
    return f" (did you mean {meant!r}?)" if meant in known else ""
