"""Committed units: names, round trips, first commit wins, and files that are not whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import TableError
from avpref.execution.fakes import FakeItem, FakeRow
from avpref.storage.local_files import LocalFiles
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


def unit(*names: str, stage: str = "score", shard: int = 0, fingerprint: str = "f") -> Unit:
    return Unit(stage, shard, fingerprint, tuple(FakeItem(name) for name in names))


@pytest.fixture
def files(tmp_path: Path) -> UnitFiles:
    return UnitFiles(LocalFiles(tmp_path), tables.SKIPPED)


LOST = QuarantineRow("b", "score", "MediaError", 'no "sound" — ä', 2)


def test_names_follow_from_stage_fingerprint_shard_and_items_alone(files: UnitFiles) -> None:
    base = unit("a", "b")
    assert files.name(base) == files.name(unit("a", "b"))
    others = [unit("b", "a"), unit("ab"), unit("a"), unit("a", "b", stage="x"), unit("a", "b", shard=1)]
    names = {files.name(each) for each in [base, *others, unit("a", "b", fingerprint="g")]}
    assert len(names) == 7


def test_rows_and_quarantine_come_back_in_the_order_of_the_plan(files: UnitFiles) -> None:
    first, second = unit("a", "b"), unit("c")
    files.commit(second, [FakeRow("c")])
    files.commit(first, [FakeRow("a")], [LOST])
    rows, quarantined = files.read([first, second])
    assert rows["prompt_id"].to_pylist() == ["a", "c"]
    assert quarantined == [LOST] == files.quarantined([first, second])
    assert rows.schema.equals(tables.SKIPPED.schema, check_metadata=False)


def test_no_units_give_an_empty_table(files: UnitFiles) -> None:
    rows, quarantined = files.read([])
    assert (rows.num_rows, quarantined) == (0, [])
    assert rows.schema.names == tables.SKIPPED.schema.names


def test_the_first_commit_of_a_unit_wins(files: UnitFiles) -> None:
    one = unit("a")
    assert not files.exists(one)
    assert files.commit(one, [FakeRow("a", "first")])
    assert files.exists(one)
    assert not files.commit(one, [FakeRow("a", "late")])
    assert files.read([one])[0]["reason"].to_pylist() == ["first"]


def test_a_unit_joined_from_pieces_equals_one_that_was_never_split(files: UnitFiles, tmp_path: Path) -> None:
    whole, pieces = unit("a", "b", "c"), [unit("a"), unit("b", "c")]
    files.commit(pieces[0], [FakeRow("a")])
    files.commit(pieces[1], [FakeRow("c")], [LOST])
    assert files.join(whole, pieces)
    other = UnitFiles(LocalFiles(tmp_path / "other"), tables.SKIPPED)
    other.commit(whole, [FakeRow("a"), FakeRow("c")], [LOST])
    assert files.read([whole]) == other.read([whole])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", None])
def test_a_unit_that_is_not_whole_is_named(files: UnitFiles, tmp_path: Path, content: bytes | None) -> None:
    one = unit("a")
    path = tmp_path / files.name(one)
    files.commit(one, [FakeRow("a")])
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for read in (files.read, files.quarantined):
        with pytest.raises(TableError) as caught:
            read([one])
        assert str(path) in caught.value.found
        assert "delete" in caught.value.fix and "resume" in caught.value.fix
