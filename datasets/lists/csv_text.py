"""Text of a user's CSV file, whatever its encoding: UTF-8, or UTF-16 and UTF-32 with a byte order mark."""

from __future__ import annotations

import codecs
import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from avpref.errors import InputError, TableError

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Marks and encodings. The mark of UTF-32 begins with that of UTF-16, so it comes first."""
OLD_ENCODINGS = (("cp1252", "WINDOWS-1252"), ("cp932", "CP932"), ("gb18030", "GB18030"))
"""Encodings of spreadsheet programs that are named where a file is not UTF-8: for Python, and for iconv."""
SAMPLE_BYTES = 4096
SHOWN_CHARS = 60
MIN_NULL_SHARE = 0.3
"""Share of zero bytes at even or odd positions above which a file without a mark is UTF-16."""


@dataclass(frozen=True)
class CsvText:
    """The decoded text of ``path`` without its byte order mark, and its encoding."""

    path: Path
    text: str
    encoding: str


def read_csv_text(path: Path) -> CsvText:
    """The text of ``path``. Raises InputError where there is no such file, TableError for an encoding that cannot be read."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: {problem}", "a readable CSV file with a header", "correct the path") from error
    mark, encoding = next(((mark, name) for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), (b"", "utf-8"))
    if not mark:
        _refuse_unmarked_utf16(path, data)
    try:
        return CsvText(path, data[len(mark) :].decode(encoding), encoding)
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, data, encoding, error) from error


def corrected_path(path: Path, suffix: str = "fixed") -> Path:
    """The name that suggested commands give the corrected copy: beside the CSV, so that relative names stay right."""
    return path.with_name(f"{path.stem}-{suffix}{path.suffix}")


def literal(value: object) -> str:
    """``value`` as a Python literal of ASCII characters in double quotes, for suggested commands."""
    escaped = str(value).encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def iconv_command(path: Path, encoding: str) -> str:
    """The shell command that writes ``path`` again in UTF-8; ``encoding`` is a name that iconv knows."""
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(corrected_path(path, 'utf8')))}"


def _refuse_unmarked_utf16(path: Path, data: bytes) -> None:
    """Raises TableError for UTF-16 without a byte order mark, whose every second byte is zero in text of Latin letters."""
    sample = data[:SAMPLE_BYTES]
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        half = sample[first::2]
        if len(half) > 1 and half.count(0) > MIN_NULL_SHARE * len(half) and not sample[1 - first :: 2].count(0):
            found = f"{path}: line 1: {name} text without a byte order mark"
            raise TableError(found, "a CSV in UTF-8", iconv_command(path, name))


def _wrong_encoding(path: Path, data: bytes, encoding: str, error: UnicodeDecodeError) -> TableError:
    line = error.object[: error.start].count(b"\n") + 1
    expected = "a CSV in UTF-8, or in UTF-16 with a byte order mark"
    if encoding != "utf-8":
        line = error.object[: error.start].decode(encoding, "replace").count("\n") + 1
        found = (
            f"{path}: line {line}: not {encoding.upper()} text, which its byte order mark announces ({error.reason})"
        )
        return TableError(found, expected, f"write {path.name} again as CSV UTF-8 with the program that made it")
    found = f"{path}: line {line}: not UTF-8 text (byte 0x{data[error.start]:02x}: {error.reason})"
    readings = {}
    for python_name, iconv_name in OLD_ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError, IndexError):
            readings[iconv_name] = data.decode(python_name).splitlines()[line - 1][:SHOWN_CHARS]
    if not readings:
        return TableError(found, expected, f"write {path.name} again as CSV UTF-8 with the program that made it")
    shown = ", ".join(f"{words!r} in {name}" for name, words in readings.items())
    first, *others = readings
    also = f" (or with {', '.join(others)} in place of {first}, whichever reads right)" if others else ""
    return TableError(f"{found}; the line reads {shown}", expected, f"{iconv_command(path, first)}{also}")
