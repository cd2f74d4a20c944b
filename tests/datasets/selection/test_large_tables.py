"""Ways that only large or unusual tables take: several files per sealed table, files without statistics, slices by threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import block_table, large_tables, reward_formula, tables
from avpref.datasets.block_table import BlockTable
from avpref.datasets.reward_formula import MetricScale, MissingScores, compute_rewards
from avpref.datasets.selection import text_columns
from avpref.datasets.selection.normalise import MetricNorm, Norm, measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import num_rows, pieces, source_of
from avpref.datasets.selection.text_columns import Texts
from avpref.domain import METRICS
from avpref.errors import TableError
from avpref.identity import digest
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_tables import RunTables
from avpref.storage.sealed_tables import TableStore


@pytest.fixture
def found(make_tables):
    return make_tables(np.random.default_rng(11).normal(size=(30, 4, 7)).tolist())


def outcome(source):
    matrix = read_matrix(source, METRICS)
    return select_pairs(matrix, PairSettings(), measure(matrix, "all"))


def test_a_large_table_is_sealed_as_several_files(found, monkeypatch, tmp_path):
    run = RunTables(TableStore(LocalFiles(tmp_path / "tables")), tmp_path)
    one_file = run.seal(tables.SCORES, "f", found["scores"])
    monkeypatch.setattr(large_tables, "ROWS_PER_FILE", 100)
    monkeypatch.setattr(large_tables, "ROWS_PER_GROUP", 20)
    manifest = run.seal(tables.SCORES, "g", found["scores"])
    chunked = pa.concat_tables([found["scores"].slice(0, 130), found["scores"].slice(130)])
    assert large_tables.to_files(chunked) == large_tables.to_files(found["scores"])
    assert (len(one_file.files), [file.rows for file in manifest.files]) == (1, [80, 100, 100] * 3)
    assert run.read(tables.SCORES).equals(found["scores"])
    with run.connect() as con:
        assert con.sql("SELECT count(DISTINCT candidate_id) FROM scores").fetchall() == [(120,)]


def test_numbers_of_a_large_table_are_compressed_only_where_they_repeat(found, monkeypatch):
    monkeypatch.setattr(large_tables, "ROWS_PER_FILE", 300)
    monkeypatch.setattr(large_tables, "ROWS_PER_GROUP", 100)
    rows = found["scores"].drop_columns("elapsed_ms").append_column("elapsed_ms", pa.array([0.5] * 840))
    (data, _), *_ = large_tables.to_files(rows)
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    codecs = {group.column(place).path_in_schema: group.column(place).compression for place in range(group.num_columns)}
    assert (codecs["value"], codecs["elapsed_ms"], codecs["candidate_id"]) == ("UNCOMPRESSED", "ZSTD", "ZSTD")
    assert pq.read_table(pa.BufferReader(data)).equals(rows.slice(0, 300))


@pytest.mark.parametrize("statistics", [True, False, ["value"], ["status"]])
@pytest.mark.parametrize("status", ["ok", "skipped", "mixed"])
def test_statuses_are_those_of_the_rows_with_and_without_statistics(found, tmp_path, statistics, status):
    scores = found["scores"].to_pandas()
    if status == "skipped":
        scores["status"] = "skipped"
    elif status == "mixed":
        scores.loc[100:102, "status"] = "skipped"
        scores.loc[200:201, "value"] = np.inf
    table = tables.to_arrow(tables.SCORES, scores)
    path = tmp_path / "scores.parquet"
    pq.write_table(table, path, row_group_size=90, write_statistics=statistics)
    read, expected = (outcome(source_of({**found, "scores": rows})) for rows in ([path], table))
    for name in ("pairs", "skipped", "excluded", "rewards"):
        assert getattr(read, name).equals(getattr(expected, name)), name
    assert read.norm == expected.norm


def test_a_column_of_one_text_is_not_read(found, tmp_path):
    pq.write_table(found["scores"], tmp_path / "s.parquet", row_group_size=400)
    (piece,) = pieces([tmp_path / "s.parquet"], ("status",))
    columns = ("value", "status")
    assert [rows.column_names for _, rows in piece.read(columns, {"status": "ok"})] == [["value"]] * 3
    assert [rows.column_names for _, rows in piece.read(columns, {"status": "skipped"})] == [list(columns)] * 3


def test_pieces_know_their_first_row_and_the_bounds_of_numbers(found, tmp_path):
    candidates = found["candidates"]
    pq.write_table(candidates, tmp_path / "c.parquet", row_group_size=6)
    split = pieces([tmp_path / "c.parquet", candidates], ())
    assert [piece.first_row for piece in split] == [0, 48, 96, 120] and num_rows([candidates] * 2) == 240
    assert split[0].bounds("index") == (0, 3) and split[3].bounds("index") is None


@pytest.mark.parametrize("largest", [3, 2**31 - 1, 2**31, 2**40])
def test_an_index_of_any_size_keeps_the_order(found, tmp_path, largest):
    rows = found["candidates"].to_pandas()
    rows.loc[rows["index"] == 3, "index"] = largest
    table = tables.to_arrow(tables.CANDIDATES, rows.sample(frac=1, random_state=1))
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=50)
    for source in ([tmp_path / "c.parquet"], table):
        index = read_matrix(source_of({**found, "candidates": source}), METRICS).index
        assert index.ids(np.arange(120)).to_pylist() == rows["candidate_id"].to_list()


@pytest.mark.parametrize("name", ['c"1', "c\\1", "cé1", "c,1", "c'1"])
def test_ids_of_pairs_are_those_of_identity_whatever_the_ids(found, name):
    plain, other = found["candidates"]["candidate_id"].to_pylist()[:2]
    renamed = {}
    for table in ("candidates", "scores"):
        ids = [{plain: name, other: "b" + name}.get(text, text) for text in found[table]["candidate_id"].to_pylist()]
        place = found[table].schema.get_field_index("candidate_id")
        renamed[table] = found[table].set_column(place, found[table].schema.field(place), pa.array(ids))
    pairs = outcome(source_of({**found, **renamed})).pairs.to_pylist()
    assert [row["pair_id"] for row in pairs] == ["x" + digest("pair", row["chosen"], row["rejected"]) for row in pairs]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.1)])
def test_threads_and_slices_change_no_bit_of_rewards(monkeypatch, weights):
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(3, 1001))
    scores[rng.random(scores.shape) < 0.01] = np.nan
    names = zip(("a", "b", "c"), ("video", "video", "audio"), (True, False, True), weights, strict=True)
    scales = [MetricScale(name, dimension, up, 0.3, 1.7, weight) for name, dimension, up, weight in names]
    whole = compute_rewards(scores, scales, "micro", MissingScores.EXCLUDE, np.arange(1001))
    monkeypatch.setattr(reward_formula, "SLICE", 64)
    parts = compute_rewards(scores, scales, "micro", MissingScores.EXCLUDE, np.arange(1001), threads=3)
    np.testing.assert_array_equal(whole.by_dimension, parts.by_dimension)
    np.testing.assert_array_equal(whole.overall, parts.overall)
    complete = ~np.isnan(scores).any(axis=0)
    first = weights[0] * ((scores[0] - 0.3) / 1.7) + weights[1] * -((scores[1] - 0.3) / 1.7)
    np.testing.assert_allclose(whole.by_dimension[0][complete], (first / (weights[0] + weights[1]))[complete])
    assert np.isnan(whole.overall[~complete]).all()


@pytest.mark.parametrize(
    "names", [["aa", "bb", "cc"], ["a", "bb", ""], ["é", "bb", "cc"], ["", "", ""], ["aa", None, "bb"]]
)
@pytest.mark.parametrize("longest", [text_columns.MAX_OFFSET, 20])
def test_taken_texts_are_those_of_arrow(monkeypatch, names, longest):
    monkeypatch.setattr(text_columns, "MAX_OFFSET", longest)
    places = np.random.default_rng(0).integers(0, 3, 25).astype(np.int32)
    for kind in (pa.string(), pa.large_string()):
        texts = pa.array(["left out", *names], kind).slice(1)
        taken = Texts(texts).take(places)
        taken.validate(full=True)
        assert taken.equals(texts.take(pa.array(places)))
    assert Texts(pa.array(names)).take(places[:0]).to_pylist() == []
    assert Texts(pa.array([], pa.string())).take(places[:0]).to_pylist() == []


def test_a_table_in_blocks_is_sealed_as_the_whole_table(found, monkeypatch):
    monkeypatch.setattr(large_tables, "ROWS_PER_FILE", 30)
    monkeypatch.setattr(large_tables, "ROWS_PER_GROUP", 10)
    selection = outcome(source_of(found))
    whole = {name: large_tables.to_files(getattr(selection, name)) for name in ("pairs", "rewards")}
    assert len(whole["rewards"]) == 4
    for rows_per_block in (1, 7, 10, 30):
        monkeypatch.setattr(block_table, "ROWS_PER_BLOCK", rows_per_block)
        assert large_tables.to_files(selection.pair_blocks) == whole["pairs"]
        assert large_tables.to_files(replace(selection.reward_blocks, threads=3)) == whole["rewards"]
        assert selection.reward_blocks.whole().equals(selection.rewards)


def test_a_change_of_a_table_in_blocks_reaches_every_block(found, monkeypatch):
    monkeypatch.setattr(block_table, "ROWS_PER_BLOCK", 7)
    blocks = BlockTable.of(found["scores"])
    renamed = blocks.changed(lambda rows: rows.rename_columns({"value": "number"})).whole()
    assert renamed["number"].to_pylist() == found["scores"]["value"].to_pylist()
    assert blocks.whole().equals(found["scores"])
    nothing = BlockTable.of(found["scores"].slice(0, 0))
    assert nothing.whole().equals(found["scores"].slice(0, 0)) and large_tables.to_files(nothing)[0][1] == 0


def test_a_reward_that_overflows_is_an_error_of_the_selection(found):
    scores = found["scores"].to_pandas()
    scores.loc[0, "value"] = 1e308
    matrix = read_matrix(source_of({**found, "scores": tables.to_arrow(tables.SCORES, scores)}), METRICS)
    norm = Norm("small", tuple(MetricNorm(metric.name, 2, 0.0, 1e-9, *[0.0] * 5) for metric in METRICS))
    with pytest.raises(TableError, match=f"rewards.*1 of .* values of '{METRICS[0].dimension}'"):
        select_pairs(matrix, PairSettings(), norm)


def test_distinct_texts_have_no_dictionary(found, monkeypatch, tmp_path):
    monkeypatch.setattr(large_tables, "ROWS_PER_FILE", 64)
    monkeypatch.setattr(large_tables, "ROWS_PER_GROUP", 32)
    first, *_ = large_tables.to_files(found["candidates"])
    (tmp_path / "c.parquet").write_bytes(first[0])
    group = pq.read_metadata(tmp_path / "c.parquet").row_group(0)
    has_dictionary = {
        group.column(n).path_in_schema: group.column(n).has_dictionary_page for n in range(group.num_columns)
    }
    assert not has_dictionary["candidate_id"] and has_dictionary["origin"]
    assert not any(has_dictionary[name] for name in ("fps_hz", "duration_s"))
