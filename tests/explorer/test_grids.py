"""Tables: filter, search, sort, columns and pages are computed by the database, and their text is never SQL."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from avpref.errors import ConfigError
from avpref.explorer.grids import Filter, Grid, View, read_rows, rows_beside, view_of

GRID = Grid("pairs", "Pairs", "pair_rows", ("prompt", "margin_"), ("prompt",), "pair_id")


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute(
        "CREATE TABLE pair_rows AS SELECT 'x' || range AS pair_id, 'Take ' || range || ' of 50% \"a\"' AS prompt,"
        " CASE WHEN range % 10 = 0 THEN NULL ELSE (range * 37 % 101)::DOUBLE END AS margin_total, range AS rank"
        " FROM range(120)"
    )
    return con


def test_pages_follow_each_other_without_gap_or_repeat(con: duckdb.DuckDBPyConnection) -> None:
    pages = [read_rows(con, GRID, View(sort="-margin_total", size=25, page=page)) for page in range(1, 6)]
    keys = [row["pair_id"] for rows in pages for row in rows.rows]
    assert sorted(keys) == sorted(f"x{number}" for number in range(120))
    values = [row["margin_total"] for rows in pages for row in rows.rows]
    assert values[:108] == sorted(values[:108], reverse=True) and values[108:] == [None] * 12
    assert pages[0].num_pages == 5


def test_a_page_beyond_the_end_is_the_last(con: duckdb.DuckDBPyConnection) -> None:
    assert read_rows(con, GRID, View(page=99, size=100)).view.page == 2


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Filter("rank", "<", "5"), 5),
        (Filter("rank", "≥", "5"), 115),
        (Filter("rank", "=", "7"), 1),
        (Filter("rank", "≠", "7"), 119),
        (Filter("margin_total", "is empty"), 12),
        (Filter("margin_total", "is filled"), 108),
        (Filter("prompt", "contains", "TAKE 11 "), 1),
        (Filter("prompt", "contains", "50%"), 120),
        (Filter("prompt", "contains", "%"), 120),
        (Filter("prompt", "contains", "_"), 0),
        (Filter("prompt", "=", "' OR 1=1 --"), 0),
    ],
)
def test_filters_compare_with_bound_values(con: duckdb.DuckDBPyConnection, item: Filter, expected: int) -> None:
    rows = read_rows(con, GRID, View(filters=(item,)))
    assert (rows.num_rows, rows.num_all) == (expected, 120)


def test_filters_and_search_are_joined(con: duckdb.DuckDBPyConnection) -> None:
    view = View(search="take 1", filters=(Filter("rank", ">", "9"), Filter("rank", "<", "20")))
    assert read_rows(con, GRID, view).num_rows == 10


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(sort='rank"; DROP TABLE pair_rows; --'), "no column"),
        (View(filters=(Filter("nothing", "=", "1"),)), "no column"),
        (View(filters=(Filter("rank", "<", "many"),)), "a number"),
    ],
)
def test_a_wrong_column_or_value_is_an_error(con: duckdb.DuckDBPyConnection, view: View, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_rows(con, GRID, view)
    assert con.execute("SELECT count(*) FROM pair_rows").fetchone() == (120,)


def test_an_address_gives_the_same_view_again() -> None:
    from urllib.parse import parse_qsl

    view = View("a~b", (Filter("rank", "<", "5~6"), Filter("prompt", "is empty")), "-rank", ("prompt", "rank"), 3, 100)
    assert view_of(parse_qsl(view.query()[1:])) == view
    assert view_of([]) == View()


@pytest.mark.parametrize("query", [[("where", "rank")], [("where", "rank~like~1")]])
def test_a_filter_that_cannot_be_read_is_an_error(query: list[tuple[str, str]]) -> None:
    with pytest.raises(ConfigError, match="operator"):
        view_of(query)


def test_rows_know_those_beside_them(con: duckdb.DuckDBPyConnection) -> None:
    view = View(sort="-rank", filters=(Filter("rank", "<", "4"),))
    assert rows_beside(con, GRID, view, "x3") == ("", "x2", 1, 4)
    assert rows_beside(con, GRID, view, "x0") == ("x1", "", 4, 4)
    assert rows_beside(con, GRID, view, "x9") == ("", "", 0, 0)


def test_shown_columns_are_those_asked_for(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    assert read_rows(con, GRID, View()).shown == ("prompt", "margin_total")
    assert read_rows(con, GRID, View(columns=("rank", "nothing", "prompt"))).shown == ("rank", "prompt")
