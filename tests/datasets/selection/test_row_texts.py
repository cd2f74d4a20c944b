"""Texts that are put row by row, in any order, are those of the whole column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from avpref.datasets.selection import text_columns
from avpref.datasets.selection.text_columns import RowTexts

COLUMNS = {
    "one length": ["ab", "cd", "ef", "gh", "ij", "kl"],
    "several lengths": ["ab", "cd", "efg", "", "ij", "kl"],
    "lengths of pieces": ["abc", "def", "gh", "ij", "kl", "mn"],
    "a null": ["ab", None, "ef", "gh", "ij", "kl"],
    "no text": [""] * 6,
    "more bytes than characters": ["é", "ab", "cd", "ñ", "ij", "kl"],
}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
@pytest.mark.parametrize("texts", COLUMNS.values(), ids=COLUMNS)
def test_pieces_in_any_order_give_the_column(texts, order):
    column, rows = pa.array(["before", *texts], pa.string()).slice(1), RowTexts(len(texts))
    for piece in order:
        rows.put(2 * piece, column.slice(2 * piece, 2))
    assert rows.array().equals(pa.array(texts, pa.string()))


def test_no_rows_are_an_empty_column():
    assert RowTexts(0).array().equals(pa.array([], pa.string()))


def test_many_bytes_have_long_offsets(monkeypatch):
    monkeypatch.setattr(text_columns, "MAX_OFFSET", 5)
    rows = RowTexts(3)
    rows.put(0, pa.array(["ab", "cd", "ef"]))
    assert rows.array().equals(pa.array(["ab", "cd", "ef"], pa.large_string()))
