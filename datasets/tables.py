"""Arrow schemas of a run's tables, and conversion of rows to Parquet bytes and back.

Every table carries three metadata keys: ``avpref.table`` (its name), ``avpref.schema_version`` and ``avpref.fingerprint``
(of its inputs); a table whose columns follow the metrics of a run also lists them (:mod:`avpref.datasets.metric_tables`). A
column that is not nullable holds no null and, if it is a float, no NaN or infinity. Only values that may be missing are
nullable.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avpref.datasets.metric_tables import (
    METRICS_KEY,
    Table,
    as_written,
    former_schema,
    is_former,
    leaderboard_table,
    metrics_text,
    pairs_table,
    rewards_table,
    table_of,
    with_dimension,
)
from avpref.domain import METRICS, SCHEMA_VERSION
from avpref.errors import SchemaVersionError, TableError

if TYPE_CHECKING:
    import pandas as pd

NAME_KEY = "avpref.table"
VERSION_KEY = "avpref.schema_version"
FINGERPRINT_KEY = "avpref.fingerprint"
AGAIN = "write the table again with the stage that made it"

ROWS_PER_GROUP = 1 << 15
"""Rows per row group: the unit of reading and writing in pieces, and the least that a query reads."""
ZSTD = MappingProxyType({"compression": "zstd", "compression_level": 3})


def _table(name: str, /, **columns: str) -> Table:
    """A table from the types of its columns; see :func:`avpref.datasets.metric_tables.table_of`."""
    return table_of(name, columns)


PROMPTS = _table(
    "prompts",
    prompt_id="text",
    text="text",
    split="text",
    source="text",
    taxonomy="text",
    ground_truth_path="text",
    ground_truth_start_s="float",
    ground_truth_sha256="text",
)
PROMPT_SHAPES = _table(
    "prompt_shapes", prompt_id="text", num_frames="int", height_px="int", width_px="int", origin="text"
)
TEXTS = _table("texts", item_id="text", text="text")
IMPORTED = _table(
    "imported",
    line="int",
    foreign_id="text",
    prompt_id="text",
    split="text",
    dimension="text",
    chosen_file="text",
    chosen_row="int",
    chosen_sha256="text",
    rejected_file="text",
    rejected_row="int",
    rejected_sha256="text",
    is_verified="bool",
    scores="text",
)
CANDIDATES = _table(
    "candidates",
    candidate_id="text",
    prompt_id="text",
    index="int",
    origin="text",
    seed="int",
    checkpoint_hash="text",
    sampler_hash="text",
    path="text",
    sha256="text",
    num_frames="int",
    height_px="int",
    width_px="int",
    fps_hz="float",
    sample_rate_hz="int",
    duration_s="float",
    adapter_hash="text",
    sampler="text",
    latents_path="text",
    elapsed_s="float",
)
SCORES = _table(
    "scores",
    candidate_id="text",
    metric="text",
    value="float?",
    status="text",
    reason="text",
    scorer="text",
    fingerprint="text",
    elapsed_ms="float",
    gpu_s="float",
    licence="text",
    commercial_use="bool",
    is_meaningful="bool",
)
NORMS = _table(
    "norms",
    norm_id="text",
    metric="text",
    population="text",
    count="int",
    mean="float",
    std="float",
    q05="float",
    q25="float",
    q50="float",
    q75="float",
    q95="float",
)
REWARDS = rewards_table(METRICS)
PAIRS = pairs_table(METRICS)
SKIPPED = _table("skipped", prompt_id="text", reason="text", detail="text")
EXCLUDED = _table("excluded", candidate_id="text", prompt_id="text", metric="text", reason="text", detail="text")
CLIP_FACTS = _table(
    "clip_facts",
    candidate_id="text",
    loudness_db="float?",
    peak_db="float?",
    silence_share="float?",
    motion="float?",
    still_share="float?",
    brightness="float?",
    duration_s="float?",
    bit_rate_bps="float?",
    reason="text",
)
AUDITS = _table(
    "audits",
    strategy="text",
    norm_id="text",
    kind="text",
    fact="text",
    unit="text",
    value="float?",
    ci_low="float?",
    ci_high="float?",
    num="int",
    bound="float?",
    is_flagged="bool",
    detail="text",
)
QUARANTINE = _table("quarantine", candidate_id="text", stage="text", error="text", message="text", attempts="int")
EVALUATIONS = _table(
    "evaluations",
    evaluation_id="text",
    prompt_id="text",
    index="int",
    side="text",
    candidate_id="text",
    seed="int",
    kind="text",
    name="text",
    value="float?",
    status="text",
    reason="text",
    norm_id="text",
)
GATE_DECISIONS = _table(
    "gate_decisions",
    gate_id="text",
    rule="text",
    dimension="text",
    value="float",
    bound="float",
    passed="bool",
    verdict="text",
    inputs_hash="text",
    detail="text",
)
DIFFERENCES = _table(
    "differences",
    prompt_id="text",
    change="text",
    cause="text",
    chosen="text",
    rejected="text",
    dimension="text",
    margin_before="float?",
    margin_after="float?",
)
LEADERBOARD = leaderboard_table(METRICS)
OVERLAPS = _table("strategy_overlaps", strategy="text", other="text", common="int", share="float?")

TABLES: tuple[Table, ...] = (
    *(PROMPTS, CANDIDATES, SCORES, NORMS, REWARDS, PAIRS, SKIPPED, EXCLUDED, QUARANTINE, PROMPT_SHAPES),
    *(CLIP_FACTS, AUDITS, EVALUATIONS, GATE_DECISIONS, DIFFERENCES, LEADERBOARD, OVERLAPS, IMPORTED),
)
TABLE_BY_NAME = {table.name: table for table in TABLES}


def to_arrow(table: Table, rows: Iterable[object] | pd.DataFrame, fingerprint: str = "") -> pa.Table:
    """Rows (dataclasses with the table's columns as fields, or a data frame) as an Arrow table with metadata.

    In a data frame, NaN in a nullable float column is a null. Fields that are not columns are ignored.
    Raises TableError for a missing column, a wrong type, or a null or non-finite number where the schema allows none.
    """
    try:
        if _is_frame(rows):
            built = pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False)
        else:
            built = _from_dataclasses(table, list(rows))
    except (AttributeError, KeyError, pa.ArrowException) as error:
        expected = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise TableError(f"rows that do not fit table '{table.name}': {error}", expected) from error
    return conform(table, built, fingerprint)


def _is_frame(rows: object) -> TypeGuard[pd.DataFrame]:
    """Whether ``rows`` is a data frame. Pandas is not imported for this: who passes a data frame has imported it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def _from_dataclasses(table: Table, rows: Sequence[object]) -> pa.Table:
    assert all(is_dataclass(row) for row in rows), "rows are dataclasses"
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in table.schema]
    return pa.Table.from_arrays(columns, schema=table.schema)


def conform(table: Table, arrow: pa.Table, fingerprint: str = "") -> pa.Table:
    """``arrow`` cast to the table's column order and types, checked, with metadata.

    Raises TableError for a missing column, an impossible cast, or a null or non-finite number in a column without nulls.
    """
    missing = [name for name in table.schema.names if name not in arrow.column_names]
    if missing:
        raise TableError(f"table '{table.name}' without column(s) {', '.join(missing)}", "all columns of its schema")
    metadata = {NAME_KEY: table.name, VERSION_KEY: str(SCHEMA_VERSION), FINGERPRINT_KEY: fingerprint}
    metadata |= {METRICS_KEY: metrics_text(table.metrics)} if table.metrics else {}
    loose = pa.schema([field.with_nullable(True) for field in table.schema])
    try:
        cast = arrow.select(table.schema.names).cast(loose)
    except pa.ArrowException as error:
        raise TableError(f"table '{table.name}' with a column of another type: {error}", str(table.schema)) from error
    _check_values(table, cast)
    return pa.Table.from_arrays(cast.columns, schema=table.schema.with_metadata(metadata))


def _check_values(table: Table, arrow: pa.Table) -> None:
    for field in table.schema:
        if field.nullable:
            continue
        column = arrow[field.name]
        bad = column.null_count
        if pa.types.is_floating(field.type):
            bad += len(column) - column.null_count - (pc.sum(pc.is_finite(column)).as_py() or 0)
        if bad:
            raise TableError(
                f"table '{table.name}': {bad} of {len(column)} values of '{field.name}' are null, NaN or infinite",
                "a finite value in every row",
                "leave the rows out where they are made, and keep the reason as a row",
            )


def fingerprint(arrow: pa.Table) -> str:
    """The fingerprint in a table's metadata; empty if absent."""
    return (arrow.schema.metadata or {}).get(FINGERPRINT_KEY.encode(), b"").decode()


def to_bytes(arrow: pa.Table) -> bytes:
    """Zstandard Parquet with the table's metadata. Equal content gives equal bytes, whatever the chunks."""
    return bytes_of(arrow.schema, [arrow])[0]


def bytes_of(
    schema: pa.Schema,
    parts: Iterable[pa.Table],
    distinct: Collection[str] = (),
    codec: Mapping[str, Any] = ZSTD,
    reserved_bytes: int = 0,
) -> tuple[bytes, int]:
    """Concatenated tables as the bytes of one file, as :func:`to_bytes`, and the number of rows; bounded memory.

    ``distinct``: columns whose values do not repeat, so that no dictionary is made of them. ``codec``: options of the Parquet writer.
    ``reserved_bytes``: memory that the file probably needs; without it, the file is copied as it grows.
    """
    sink, num_rows = io.BytesIO(bytes(reserved_bytes)), 0
    repeated = [field.name for field in schema if not pa.types.is_floating(field.type) and field.name not in distinct]
    with pq.ParquetWriter(sink, schema, use_dictionary=repeated, **codec) as writer:
        # measured numbers rarely repeat, and looking for repeats takes longer than writing them
        for group in _row_groups(schema, parts):
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)
            num_rows += group.num_rows
    sink.truncate()
    return sink.getvalue(), num_rows


def _row_groups(schema: pa.Schema, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of ``parts`` in tables of :data:`ROWS_PER_GROUP` rows; the last may be smaller."""
    waiting: list[pa.Table] = []
    count = 0
    for part in parts:
        waiting.append(part.replace_schema_metadata(schema.metadata))
        count += part.num_rows
        if count >= ROWS_PER_GROUP:
            whole = pa.concat_tables(waiting)
            full = count - count % ROWS_PER_GROUP
            for start in range(0, full, ROWS_PER_GROUP):
                yield whole.slice(start, ROWS_PER_GROUP).combine_chunks()
            waiting, count = [whole.slice(full)], count - full
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def check_file(path: Path, table: Table) -> Table:
    """Read a Parquet file's footer and compare it with the schema; values are not read.

    Returns the table as it was written: with its own metrics, where columns follow metrics. Raises TableError (absent,
    unreadable, another table, other columns) or SchemaVersionError.
    """
    if not path.is_file():
        raise TableError(f"no file {path}", f"a Parquet file of table '{table.name}'", AGAIN)
    return _check_footer(path, str(path), table)


def _check_footer(source: Path | BinaryIO, name: str, table: Table) -> Table:
    """Returns the table as it was written: with its own metrics, where columns follow metrics."""
    try:
        schema = pq.read_schema(source)
    except pa.ArrowException as error:
        raise TableError(f"{name} is not readable as Parquet: {error}", f"table '{table.name}'", AGAIN) from error
    metadata = {
        key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"
    }
    if metadata.get(NAME_KEY) != table.name:
        raise TableError(f"{name} says it is table {metadata.get(NAME_KEY)!r}", f"table '{table.name}'", AGAIN)
    if metadata.get(VERSION_KEY) != str(SCHEMA_VERSION):
        found = f"{name} has schema version {metadata.get(VERSION_KEY)}"
        raise SchemaVersionError(found, f"schema version {SCHEMA_VERSION}", "start a new run folder with this release")
    written = as_written(table, schema)
    expected = former_schema(written) if is_former(table, schema) else written.schema
    if not schema.remove_metadata().equals(expected):
        found = f"{name} has columns {', '.join(f'{field.name}: {field.type}' for field in schema)}"
        raise TableError(found, ", ".join(f"{field.name}: {field.type}" for field in expected), AGAIN)
    return written


def read(path: Path, table: Table) -> pa.Table:
    """One Parquet file as an Arrow table, with footer and values checked. Raises as :func:`check_file`."""
    written = check_file(path, table)
    return _checked(written, pq.ParquetFile(path).read())


def _checked(table: Table, arrow: pa.Table) -> pa.Table:
    """``arrow`` in the present layout of ``table``, with its values checked."""
    present = with_dimension(arrow) if is_former(table, arrow.schema) else arrow
    _check_values(table, present)
    return present


def batches(stream: BinaryIO, name: str, table: Table) -> Iterator[pa.Table]:
    """As :func:`read_stream`, in pieces of at most :data:`ROWS_PER_GROUP` rows."""
    written = _check_footer(stream, name, table)
    for batch in pq.ParquetFile(stream).iter_batches(ROWS_PER_GROUP):
        yield _checked(written, pa.Table.from_batches([batch]))


def read_stream(stream: BinaryIO, name: str, table: Table) -> pa.Table:
    """As :func:`read`, from a seekable stream; ``name`` is for messages."""
    written = _check_footer(stream, name, table)
    return _checked(written, pq.ParquetFile(stream).read())


def joined(parts: Sequence[pa.Table], table: Table) -> pa.Table:
    """Concatenation of parts of one table; no parts give an empty table. Metadata: the first part's."""
    if not parts:
        return to_arrow(table, [])
    return pa.concat_tables(parts).replace_schema_metadata(parts[0].schema.metadata)
