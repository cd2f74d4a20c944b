from __future__ import annotations

from dataclasses import fields, replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avpref.datasets import rows, tables
from avpref.datasets.selection.normalise import NormRow
from avpref.domain import Candidate, Prompt, Split
from avpref.errors import SchemaVersionError, TableError

PROMPT = Prompt("p0", "a bell", Split.TRAIN)


def write(path, arrow):
    path.write_bytes(tables.to_bytes(arrow))
    return path


@pytest.mark.parametrize(
    ("row", "table"),
    [
        (Prompt, tables.PROMPTS),
        (Candidate, tables.CANDIDATES),
        (rows.ScoreRow, tables.SCORES),
        (rows.QuarantineRow, tables.QUARANTINE),
        (rows.EvaluationRow, tables.EVALUATIONS),
        (rows.GateRow, tables.GATE_DECISIONS),
        (NormRow, tables.NORMS),
    ],
)
def test_row_classes_have_the_columns_of_their_table(row, table):
    assert [field.name for field in fields(row)] == table.schema.names


def test_rows_come_back_as_they_were(tmp_path):
    arrow = tables.to_arrow(tables.PROMPTS, [PROMPT, replace(PROMPT, prompt_id="p1")], fingerprint="abc")
    back = tables.read(write(tmp_path / "a.parquet", arrow), tables.PROMPTS)
    assert back.equals(arrow)
    assert [Prompt(**row) for row in back.to_pylist()] == [PROMPT, replace(PROMPT, prompt_id="p1")]
    assert tables.fingerprint(back) == "abc"


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.name)
def test_every_table_can_be_empty_and_survives_pandas(table, tmp_path):
    empty = tables.to_arrow(table, [])
    back = tables.read(write(tmp_path / "a.parquet", empty), table)
    assert back.num_rows == 0
    assert tables.to_arrow(table, back.to_pandas()).schema.equals(back.schema, check_metadata=True)


def test_data_frames_may_hold_missing_values_as_nan(make_tables):
    scores = make_tables([[[1.0] * 7]])["scores"].to_pandas()
    scores.loc[2, "value"] = float("nan")
    assert tables.to_arrow(tables.SCORES, scores)["value"].null_count == 1


def test_equal_content_gives_equal_bytes_however_it_was_chunked():
    parts = [tables.to_arrow(tables.PROMPTS, [replace(PROMPT, prompt_id=f"p{i}")]) for i in range(5)]
    chunked = pa.concat_tables(parts)
    whole = tables.to_arrow(tables.PROMPTS, chunked.to_pandas())
    assert chunked["text"].num_chunks == 5
    assert tables.to_bytes(chunked) == tables.to_bytes(whole)


def test_missing_column_is_named():
    with pytest.raises(TableError, match="text"):
        tables.to_arrow(tables.PROMPTS, pd.DataFrame({"prompt_id": ["p0"]}))


def test_rows_of_another_class_are_refused():
    with pytest.raises(TableError, match="scores"):
        tables.to_arrow(tables.SCORES, [PROMPT])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_numbers_that_must_be_finite_are(value):
    with pytest.raises(TableError, match="ground_truth_start_s"):
        tables.to_arrow(tables.PROMPTS, [replace(PROMPT, ground_truth_start_s=value)])


def test_raw_scores_may_be_anything(make_score):
    arrow = tables.to_arrow(tables.SCORES, [make_score("c", "desync", value) for value in (None, float("nan"), 1.0)])
    assert arrow["value"].null_count == 1


def test_another_table_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", tables.to_arrow(tables.SKIPPED, []))
    with pytest.raises(TableError, match="'skipped'") as caught:
        tables.read(path, tables.PROMPTS)
    assert caught.value.fix


def test_another_schema_version_is_refused(tmp_path):
    arrow = tables.to_arrow(tables.SKIPPED, [])
    metadata = {**arrow.schema.metadata, b"avpref.schema_version": b"999"}
    with pytest.raises(SchemaVersionError, match="999"):
        tables.read(write(tmp_path / "a.parquet", arrow.replace_schema_metadata(metadata)), tables.SKIPPED)


def test_changed_columns_are_refused(tmp_path):
    empty = tables.to_arrow(tables.SKIPPED, [])
    arrow = empty.rename_columns(["prompt_id", "reason", "remark"]).replace_schema_metadata(empty.schema.metadata)
    with pytest.raises(TableError, match="remark"):
        tables.read(write(tmp_path / "a.parquet", arrow), tables.SKIPPED)


def test_strangers_files_are_refused(tmp_path):
    pq.write_table(pa.table({"prompt_id": ["p"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    for name in ("a", "b", "absent"):
        with pytest.raises(TableError):
            tables.read(tmp_path / f"{name}.parquet", tables.SKIPPED)


def test_several_files_are_one_table(tmp_path):
    paths = [write(tmp_path / f"{i}.parquet", tables.to_arrow(tables.PROMPTS, [PROMPT], "f")) for i in range(3)]
    whole = tables.joined([tables.read(path, tables.PROMPTS) for path in paths], tables.PROMPTS)
    assert whole.num_rows == 3
    assert tables.fingerprint(whole) == "f"
    assert tables.joined([], tables.PROMPTS).num_rows == 0
