"""Tables in files of users: CSV or Parquet, by suffix."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from avpref.errors import ConfigError, TableError


def check_format(path: Path) -> None:
    """Raises ConfigError for a suffix that is neither ``.csv`` nor ``.parquet``."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        fix = f"name it {path.with_suffix('.parquet').name}"
        raise ConfigError(f"{path} ends in {path.suffix!r}", ".csv or .parquet", fix)


def read_parquet_table(path: Path) -> pa.Table:
    """All columns of a Parquet file; dictionaries become their values.

    Raises TableError where it cannot be read, or a column is listed twice.
    """
    again = f"write {path.name} again"
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{path}: {error}", "a readable Parquet file", again) from error
    doubled = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if doubled:
        raise TableError(f"{path}: columns listed twice: {', '.join(doubled)}", "each column once", again)
    plain = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, plain, strict=True))))


def write_table(path: Path, table: pa.Table, write: Callable[[Path, bytes], None]) -> None:
    """Encode ``table`` and hand it to ``write``, which stores the bytes. Raises ConfigError for another suffix, as ``write``."""
    check_format(path)
    sink = io.BytesIO()
    if path.suffix.lower() == ".csv":
        pyarrow.csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink, compression="zstd")
    write(path.resolve(), sink.getvalue())
