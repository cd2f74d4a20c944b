"""Where finished work is found: which files are looked at, which are opened, and what is linked."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from present import present

from avpref.storage.local_files import LocalFiles
from avpref.storage.sibling_runs import (
    SiblingRun,
    UnitFile,
    bring_files,
    find,
    itself_and_siblings,
    siblings,
    unit_files,
    units_by_fingerprint,
)


def write(root: Path, stage: str, fingerprint: str, name: str, *items: str) -> None:
    folder = root / "units" / stage / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"key": list(items), "other": [1.0] * len(items)}), folder / f"{name}.parquet")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write(tmp_path / "here", "s", "f", "00000-a", "1", "2")
    write(tmp_path / "beside", "s", "f", "00000-a", "1", "2")
    write(tmp_path / "beside", "s", "f", "00001-b", "3", "3", "4")
    write(tmp_path / "beside", "s", "g", "00000-c", "5")
    write(tmp_path / "beside", "t", "f", "00000-d", "6")
    (tmp_path / "unrelated" / "models").mkdir(parents=True)
    (tmp_path / "a file").write_text("no folder")
    return tmp_path


def owners(runs: Path) -> list[SiblingRun]:
    here = runs / "here"
    return itself_and_siblings(LocalFiles(here), lambda: siblings(LocalFiles(runs), "here"))


def test_a_folder_comes_before_its_siblings_and_other_fingerprints_do_not_come(runs: Path) -> None:
    assert [owner.name for owner in owners(runs)] == ["", "beside", "unrelated"]
    files = list(unit_files(owners(runs), "s", "f"))
    assert [(file.owner.name, file.unit_name) for file in files] == [
        ("", "00000-a"),
        ("beside", "00000-a"),
        ("beside", "00001-b"),
    ]
    assert {file.fingerprint for file in files} == {"f"}
    groups = [[file.name for file in group] for group in units_by_fingerprint(owners(runs), "s")]
    assert groups == [
        ["units/s/f/00000-a.parquet"],
        ["units/s/f/00000-a.parquet", "units/s/f/00001-b.parquet"],
        ["units/s/g/00000-c.parquet"],
    ]


def test_the_first_file_with_an_item_counts_and_equal_names_are_read_once(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, rows = [], UnitFile.rows

    def noted(self: UnitFile, columns: Sequence[str] | None = None) -> pa.Table | None:
        read.append((self.owner.name, self.unit_name))
        return rows(self, columns)

    monkeypatch.setattr(UnitFile, "rows", noted)
    found = find(unit_files(owners(runs), "s", "f"), "key", {"planned": ["2", "4", "9"]})
    assert {item: (file.owner.name, file.unit_name) for item, file in found.items()} == {
        "2": ("", "00000-a"),
        "4": ("beside", "00001-b"),
    }
    assert read == [("", "00000-a"), ("beside", "00001-b")]


def test_a_file_that_is_named_as_planned_is_not_opened_and_one_that_is_done_is_not_looked_at(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UnitFile, "rows", lambda *_: pytest.fail("opened"))
    found = find(unit_files(owners(runs), "s", "f"), "key", {"00001-b": ["3", "4"]}, done=["00000-a"])
    assert {file.unit_name for file in found.values()} == {"00001-b"} and set(found) == {"3", "4"}


def test_a_file_that_is_gone_or_torn_has_no_rows(runs: Path) -> None:
    files = list(unit_files(owners(runs), "s", "f"))
    (runs / "here" / files[0].name).unlink()
    (runs / "beside" / files[2].name).write_bytes(b"PAR1")
    assert files[0].rows() is None and files[2].rows(["key"]) is None
    assert present(files[1].rows(["key"])).num_rows == 2


@pytest.mark.parametrize("can_link", [True, False])
def test_files_are_linked_or_copied_where_no_link_can_be_made(
    tmp_path: Path, can_link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = LocalFiles(tmp_path / "source"), LocalFiles(tmp_path / "target")
    source.commit_once("clips/a/1.mp4", b"one")
    source.commit_once("2.mp4", b"two")
    target.commit_once("2.mp4", b"here before")
    link = os.link

    def refused(old: Path, new: Path) -> None:
        if Path(old).is_relative_to(source.root):
            raise OSError(errno.EXDEV, "another file system")
        link(old, new)

    if not can_link:
        monkeypatch.setattr(os, "link", refused)
    assert bring_files(source, target, ["clips/a/1.mp4", "2.mp4"])
    assert (target.read("clips/a/1.mp4"), target.read("2.mp4")) == (b"one", b"here before")
    assert source.path("clips/a/1.mp4").samefile(target.path("clips/a/1.mp4")) == can_link
    assert not bring_files(source, target, ["absent"])
