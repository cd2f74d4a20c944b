"""Candidates and scores in the orders that have a way of their own through the engine: blocks, runs, and what breaks them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avpref.datasets.reused_memory import _huge_pages, reused_memory
from avpref.datasets.selection.candidate_order import PromptRuns, by_two, order_of, ordinals_of
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.datasets.selection.text_columns import Texts, constant
from avpref.datasets.tables import ROWS_PER_GROUP
from avpref.domain import METRICS
from avpref.errors import TableError

NAMES = [metric.name for metric in METRICS]


def by_hand(found, matrix):
    """[M, N] from one dictionary, without the engine."""
    rows = found["scores"].select(["candidate_id", "metric", "value", "status"]).to_pylist()
    known = {(row["candidate_id"], row["metric"]): row["value"] for row in rows if row["status"] == "ok"}
    ids = matrix.index.ids(np.arange(len(matrix.index))).to_pylist()
    return np.array([[known.get((name, metric), np.nan) for name in ids] for metric in NAMES])


@pytest.fixture
def found(make_tables):
    return make_tables(np.random.default_rng(3).normal(size=(9, 4, 7)).tolist())


ORDERS = {
    "by candidate": lambda n: np.arange(n),
    "starts inside a candidate": lambda n: np.roll(np.arange(n), -3),
    "by metric": lambda n: np.argsort(np.arange(n) % 7, kind="stable"),
    "candidates backwards": lambda n: np.arange(n).reshape(-1, 7)[::-1].ravel(),
    "metrics of one candidate swapped": lambda n: np.r_[np.arange(14), [15, 14], np.arange(16, n)],
    "two rows of two candidates swapped": lambda n: np.r_[np.arange(20), [21, 20], np.arange(22, n)],
    "no order": lambda n: np.random.default_rng(1).permutation(n),
}


@pytest.mark.parametrize("rows", [5, 16, 49, 1000])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_scores_fills_the_same_matrix(found, tmp_path, order, rows):
    scores = found["scores"].take(pa.array(ORDERS[order](found["scores"].num_rows)))
    pq.write_table(scores, tmp_path / "scores.parquet", row_group_size=rows)
    matrix = read_matrix(source_of({**found, "scores": [tmp_path / "scores.parquet"]}), METRICS)
    np.testing.assert_array_equal(matrix.values, by_hand(found, matrix))


def test_a_block_with_a_metric_twice_is_a_doubled_score(found):
    names = ["desync" if name == NAMES[0] else name for name in found["scores"]["metric"].to_pylist()]
    doubled = found["scores"].set_column(1, found["scores"].schema.field("metric"), pa.array(names))
    with pytest.raises(TableError, match="36 doubled scores"):
        read_matrix(source_of({**found, "scores": doubled}), METRICS)


@pytest.mark.parametrize(
    ("code", "index", "is_run"),
    [
        ([2, 2, 0, 0, 1], [0, 1, 0, 4, 0], True),
        ([2, 0, 2], [0, 0, 1], False),
        ([1, 1, 0], [1, 0, 0], False),
        ([1, 1, 0], [3, 3, 0], False),
        ([5], [7], True),
    ],
)
def test_runs_are_ordered_as_by_a_sort(code, index, is_run):
    code, index = np.array(code, np.int32), np.array(index)
    runs = PromptRuns.of(code)
    order = runs.order(index)
    assert (order is not None) == is_run
    if order is not None:
        assert order.tolist() == by_two(code, index).tolist()
    assert runs.num_candidates(9).tolist() == np.bincount(code, minlength=9).tolist()


def test_rows_and_their_ordinals_are_inverse():
    code, index = np.array([2, 0, 2, 2, 1], np.int32), np.array([1, 0, 0, 1, 0])
    ids = pa.array(["e", "d", "c", "b", "a"])
    row = order_of(PromptRuns.of(code), code, index, ids)
    assert row.tolist() == [1, 4, 2, 3, 0]  # rows 0 and 3 have one prompt and index: b is before e
    assert ordinals_of(row, 5).tolist() == [4, 0, 2, 3, 1]
    assert ordinals_of(row[1:], 5).tolist() == [3, -1, 1, 2, 0]
    nothing = PromptRuns.of(code[:0])
    assert len(order_of(nothing, code[:0], index[:0], ids[:0])) == 0
    assert nothing.num_candidates(2).tolist() == [0, 0]


def test_columns_of_texts_are_those_of_one_chunk():
    texts = pa.array(["a", "bb", "ccc"])
    places = np.random.default_rng(0).integers(0, 3, 2 * ROWS_PER_GROUP + 5)
    assert Texts(texts).take(places).equals(texts.take(pa.array(places)))
    assert Texts(texts).take(places[:0]).to_pylist() == []
    for count in (0, 3, ROWS_PER_GROUP, 2 * ROWS_PER_GROUP + 5):
        assert constant("x", count).to_pylist() == ["x"] * count


def test_the_pool_of_before_is_back_after_an_error():
    before, set_huge_pages = pa.default_memory_pool().backend_name, _huge_pages()
    had_huge_pages = set_huge_pages(True)
    with pytest.raises(ValueError, match="stop"), reused_memory():
        assert pa.default_memory_pool().backend_name == "system" and not set_huge_pages(False)
        raise ValueError("stop")
    assert pa.default_memory_pool().backend_name == before and set_huge_pages(had_huge_pages)
