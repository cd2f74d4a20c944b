"""Tables in files of users: CSV or Parquet, by suffix."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from avpref.errors import ConfigError, InputError, TableError


def check_format(path: Path) -> None:
    """Raises ConfigError for a suffix that is neither ``.csv`` nor ``.parquet``."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        fix = f"name it {path.with_suffix('.parquet').name}"
        raise ConfigError(f"{path} ends in {path.suffix!r}", ".csv or .parquet", fix)


def read_table(path: Path) -> pa.Table:
    """All columns of ``path``; those of a CSV (UTF-8, with a header) as text.

    Raises ConfigError for another suffix, InputError where there is no such file, TableError where it cannot be read, or a
    column is listed twice.
    """
    check_format(path)
    if not path.is_file():
        raise InputError(f"no file {path}", "a CSV or Parquet file of scores", "avpref scores export scores.csv")
    again = f"write {path.name} again"
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (pa.ArrowException, csv.Error, UnicodeDecodeError, OSError) as error:
        raise TableError(f"{path}: {error}", f"a readable {path.suffix} file with a header", again) from error
    doubled = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if doubled:
        raise TableError(f"{path}: columns listed twice: {', '.join(doubled)}", "each column once", again)
    return table


def write_table(path: Path, table: pa.Table, write: Callable[[Path, bytes], None]) -> None:
    """Encode ``table`` and hand it to ``write``, which stores the bytes. Raises ConfigError for another suffix, as ``write``."""
    check_format(path)
    sink = io.BytesIO()
    if path.suffix.lower() == ".csv":
        pyarrow.csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink, compression="zstd")
    write(path.resolve(), sink.getvalue())


def _read_csv(path: Path) -> pa.Table:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        names = next(csv.reader(stream, strict=True), [])
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(path, parse_options=quoted, convert_options=convert)
