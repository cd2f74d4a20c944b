"""SQL of users: it reads the run's tables and nothing else, for a limited time, in limited memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from avpref.errors import ConfigError
from avpref.explorer import sql_box
from avpref.explorer.opened_runs import OpenedRuns
from avpref.explorer.sql_box import EXAMPLE, MAX_ROWS, answer
from avpref.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def database(shown_run: RunFolder) -> Path:
    return OpenedRuns(shown_run.runs).run(shown_run.run_id).database.path


@pytest.mark.parametrize(
    "query",
    [
        EXAMPLE,
        "FROM pairs",
        "SELECT count(*) FROM clip_rows -- a comment",
        "SHOW TABLES;",
        "DESCRIBE pairs",
        "WITH a AS (SELECT 1 AS one) SELECT * FROM a",
    ],
)
def test_queries_that_read_are_answered(database: Path, query: str) -> None:
    assert answer(database, query).rows


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TABLE t AS SELECT 1",
        "CREATE TABLE memory.main.t AS SELECT 1",
        "INSERT INTO pairs SELECT * FROM pairs",
        "UPDATE pairs SET rank = 0",
        "DELETE FROM pairs",
        "DROP TABLE pairs",
        "COPY pairs TO 'pairs.csv'",
        "EXPORT DATABASE 'all'",
        "ATTACH 'other.duckdb'",
        "DETACH run",
        "SET threads = 8",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "SELECT 1) ; DROP TABLE pairs; SELECT * FROM (SELECT 2",
        "",
        ";",
        "SELEKT 1",
        "SELECT * FROM nothing",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
    ],
)
def test_queries_that_write_or_leave_the_run_are_refused(database: Path, query: str) -> None:
    before = database.read_bytes()
    with pytest.raises(ConfigError):
        answer(database, query)
    assert database.read_bytes() == before


def test_a_query_without_end_is_stopped(database: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="too long"):
        answer(database, "SELECT count(*) FROM range(100000000) a, range(1000000) b WHERE a.range = b.range + 1.5", 0.3)
    assert time.monotonic() - begun < 30


def test_a_query_that_needs_too_much_memory_is_refused(database: Path) -> None:
    with pytest.raises(ConfigError):
        answer(database, "SELECT list(range) AS all FROM range(200000000)", 60)


def test_rows_are_limited_and_the_answer_says_so(database: Path) -> None:
    cut = answer(database, "SELECT range FROM range(5000)")
    assert len(cut.rows) == MAX_ROWS and cut.is_cut
    assert not answer(database, "SELECT range FROM range(10)").is_cut


def test_long_cells_are_shortened(database: Path) -> None:
    rows = answer(database, "SELECT repeat('x', 100000) AS long").rows
    assert len(rows[0][0]) == sql_box.MAX_CELL + 1


def test_the_page_shows_answers_and_errors(client: TestClient, shown_run: RunFolder) -> None:
    path = f"/run/{shown_run.run_id}/sql"
    good = client.get(path, params={"query": "SELECT '<b>' AS text"})
    assert good.status_code == 200 and "&lt;b&gt;" in good.text
    bad = client.get(path, params={"query": "DROP TABLE pairs"})
    assert bad.status_code == 400 and "Fix:" in bad.text
