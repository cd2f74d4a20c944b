"""Tables of runs made before metrics were open: seven metrics, three dimensions, no column ``dimension``, no list."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.metric_tables import METRICS_KEY, metrics_of_table
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.datasets.views import connect, connect_tables
from avpref.domain import METRICS
from avpref.errors import TableError


def former(rows: pa.Table) -> pa.Table:
    """As the release before wrote it."""
    metadata = {key: value for key, value in rows.schema.metadata.items() if key != METRICS_KEY.encode()}
    kept = rows.drop_columns("dimension") if "dimension" in rows.column_names else rows
    return kept.replace_schema_metadata(metadata)


@pytest.fixture(scope="module")
def selection(make_tables):
    matrix = read_matrix(source_of(make_tables(np.random.default_rng(2).normal(size=(20, 4, 7)).tolist())), METRICS)
    return select_pairs(matrix, PairSettings(), measure(matrix, "all"))


def test_the_former_layout_is_that_of_the_release_before(selection):
    columns = former(selection.pairs).column_names
    assert columns[:11] == [
        *("pair_id", "prompt_id", "chosen", "rejected", "rank"),
        *("margin_video", "margin_audio", "margin_av", "margin_total", "chosen_origin", "rejected_origin"),
    ]
    names = [metric.name for metric in METRICS]
    patterns = ("chosen_{}", "rejected_{}", "chosen_{}_normalised", "rejected_{}_normalised")
    assert columns[11:-2] == [pattern.format(name) for pattern in patterns for name in names]
    assert columns[-2:] == ["strategy", "norm_id"]


def test_former_tables_are_read_as_present_ones(selection, tmp_path):
    files = {}
    for table, rows in ((tables.PAIRS, selection.pairs), (tables.REWARDS, selection.rewards)):
        path = tmp_path / f"{table.name}.parquet"
        path.write_bytes(tables.to_bytes(former(rows)))
        back = tables.read(path, table)
        assert back.equals(rows)
        assert metrics_of_table(back) == METRICS
        with open(path, "rb") as stream:
            assert pa.concat_tables(tables.batches(stream, path.name, table)).equals(rows)
        files[table.name] = [path]
    con = connect(files)
    assert con.sql("SELECT DISTINCT dimension FROM pairs").fetchall() == [("all",)]
    assert (
        con.sql("FROM pairs")
        .to_arrow_table()
        .select(selection.pairs.column_names)
        .equals(selection.pairs.replace_schema_metadata(None).cast(con.sql("FROM pairs").to_arrow_table().schema))
    )
    shown = connect_tables({"pairs": former(selection.pairs)}).sql("FROM pairs").to_arrow_table()
    assert shown["dimension"].to_pylist() == ["all"] * selection.pairs.num_rows


def test_a_list_of_metrics_that_cannot_be_read_is_named(selection, tmp_path):
    path = tmp_path / "pairs.parquet"
    metadata = {**selection.pairs.schema.metadata, METRICS_KEY.encode(): b"[{}]"}
    broken = selection.pairs.replace_schema_metadata(metadata)
    path.write_bytes(tables.to_bytes(broken))
    with pytest.raises(TableError, match=re.escape(METRICS_KEY)):
        tables.read(path, tables.PAIRS)
