from __future__ import annotations

import duckdb
import pytest

from avpref.datasets import tables, views
from avpref.errors import TableError


@pytest.fixture
def files(make_tables, tmp_path):
    found = {}
    for name, arrow in make_tables([[[1.0] * 7, [2.0] * 7]]).items():
        path = tmp_path / f"{name} it's.parquet"
        path.write_bytes(tables.to_bytes(arrow))
        found[name] = [path]
    return found


def count(con, table):
    return con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]


def test_only_listed_files_are_read(files):
    folder = files["scores"][0].parent
    (folder / "scores attempt.parquet").write_bytes(files["scores"][0].read_bytes())
    con = views.connect(files)
    assert count(con, "scores") == 14
    assert count(con, "candidates") == 2


def test_tables_without_files_are_empty_views(files):
    con = views.connect({"scores": files["scores"]})
    for table in tables.TABLES:
        assert count(con, table.name) == (14 if table.name == "scores" else 0)


def test_files_are_checked_before_they_are_read(files, tmp_path):
    with pytest.raises(TableError, match="'candidates'"):
        views.connect({"scores": files["candidates"]})
    with pytest.raises(TableError, match="no file"):
        views.connect({"scores": [tmp_path / "absent.parquet"]})
    with pytest.raises(TableError, match="votes"):
        views.connect({"votes": []})


def test_limits_are_applied():
    con = views.connect({}, views.Limits(threads=1, memory="1GB"))
    assert con.execute("SELECT current_setting('threads')").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "stranger",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM 'scores.parquet'",
        "COPY scores TO 'out.csv'",
        "ATTACH 'other.db'",
        "SET enable_external_access = true",
        "SET threads = 64",
        "INSTALL httpfs",
        "SELECT * FROM make_tables",
    ],
)
def test_strangers_sql_reaches_nothing_else(make_tables, stranger):
    con = views.connect_locked(make_tables([[[1.0] * 7]]))
    assert count(con, "scores") == 7
    with pytest.raises(duckdb.Error):
        con.execute(stranger).fetchall()


def test_every_query_says_what_it_is():
    for path in views.QUERIES.glob("*.sql"):
        text = views.sql(path.stem)
        assert text.startswith("-- "), path.name
        assert "-- In: " in text and "Out: " in text, path.name
        assert max(map(len, text.splitlines())) <= 120, path.name
