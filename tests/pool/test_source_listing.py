"""Listing of sources: folders, patterns, lists, tar files and buckets; everything is listed or refused with a reason."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avpref.config.pool.pool_settings import ScanSettings
from avpref.errors import ConfigError, InputError
from avpref.pool.scan.pool_source import content_sha256, opened_source
from avpref.pool.scan.source_listing import ListedSource, RefusedName, list_sources


def listing(*sources: Path | str) -> tuple[list[ListedSource], list[RefusedName]]:
    return list_sources(ScanSettings(sources=tuple(str(source) for source in sources)))


def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_a_folder_gives_its_videos_with_the_texts_beside_them_and_refuses_the_rest(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "one.mp4")
    touch(tmp_path / "a" / "one.txt", b" a dog barks \n")
    touch(tmp_path / "two.MKV")
    touch(tmp_path / "two.json", b'{"caption": "rain"}')
    touch(tmp_path / "notes.pdf")
    touch(tmp_path / "list.csv")
    listed, refused = listing(tmp_path)
    assert {Path(entry.source.uri).name: entry.text for entry in listed} == {
        "one.mp4": "a dog barks",
        "two.MKV": "rain",
    }
    assert {Path(entry.uri).name for entry in refused} == {"notes.pdf", "list.csv"}
    assert all(entry.reason for entry in refused)


def test_ten_thousand_files_of_one_name_are_ten_thousand_sources(tmp_path: Path) -> None:
    for number in range(10_000):
        folder = tmp_path / f"{number:05d}"
        folder.mkdir()
        (folder / "clip.mp4").write_bytes(b"x")
    listed, refused = listing(tmp_path)
    assert len({entry.source.item_id for entry in listed}) == len(listed) == 10_000 and not refused


def test_one_place_is_listed_once_and_a_text_from_any_source_is_kept(tmp_path: Path) -> None:
    touch(tmp_path / "clips" / "one.mp4")
    csv = tmp_path / "list.csv"
    csv.write_text("file,text,taxonomy,group\nclips/one.mp4,a dog,animals,day 1\nclips/none.mp4,x,,\n")
    listed, refused = listing(tmp_path / "clips", csv, str(tmp_path / "clips" / "*.mp4"))
    assert [(entry.text, entry.taxonomy, entry.group) for entry in listed] == [("a dog", "animals", "day 1")]
    assert [(Path(entry.uri).name, entry.member) for entry in refused] == [("list.csv", "line 3: clips/none.mp4")]


def test_a_parquet_list_is_read_and_one_without_the_column_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "one.mp4")
    pq.write_table(pa.table({"file": ["one.mp4"], "text": ["a dog"]}), tmp_path / "list.parquet")
    listed, _ = listing(tmp_path / "list.parquet")
    assert [entry.text for entry in listed] == ["a dog"]
    pq.write_table(pa.table({"path": ["one.mp4"]}), tmp_path / "wrong.parquet")
    with pytest.raises(InputError, match="path"):
        listing(tmp_path / "wrong.parquet")


def test_members_of_a_tar_file_are_read_at_their_places(tmp_path: Path) -> None:
    members = [
        ("00/a.mp4", b"first"),
        ("00/a.json", b'{"text": "a dog"}'),
        ("00/b.mp4", b"second"),
        ("readme.md", b"x"),
    ]
    path = make_tar(tmp_path / "shard.tar", members)
    listed, refused = listing(path)
    assert [(entry.source.member, entry.text) for entry in listed] == [("00/a.mp4", "a dog"), ("00/b.mp4", "")]
    assert [entry.member for entry in refused] == ["readme.md"]
    for entry, data in zip(listed, (b"first", b"second"), strict=True):
        with opened_source(entry.source, ScanSettings().bucket) as media:
            assert not isinstance(media, Path | str)
            assert media.read() == data
            media.seek(-2, io.SEEK_END)
            assert media.read(10) == data[-2:] and media.tell() == len(data)
            first = content_sha256(media)
            assert first == content_sha256(media)


@pytest.mark.parametrize("kept", ["half of a member", "no end mark", "half of a header"])
def test_a_tar_file_that_ends_early_gives_its_whole_members_and_one_refused_row(tmp_path: Path, kept: str) -> None:
    whole = make_tar(tmp_path / "whole.tar", [("a.mp4", b"a" * 600), ("b.mp4", b"b" * 600)]).read_bytes()
    places = {
        "half of a member": 512 + 1024 + 512 + 300,
        "no end mark": 2 * (512 + 1024),
        "half of a header": 1536 + 200,
    }
    path = touch(tmp_path / "cut.tar", whole[: places[kept]])
    listed, refused = listing(path)
    names = {"half of a member": ["a.mp4"], "no end mark": ["a.mp4", "b.mp4"], "half of a header": ["a.mp4"]}
    assert [entry.source.member for entry in listed] == names[kept]
    assert [entry.uri for entry in refused] == [str(path)] and "ends early" in refused[0].reason


def test_what_is_no_tar_file_and_what_does_not_exist_are_refused(tmp_path: Path) -> None:
    path = touch(tmp_path / "wrong.tar", b"not a tar file" * 100)
    listed, refused = listing(path, tmp_path / "absent", str(tmp_path / "*.avi"), touch(tmp_path / "x.tar.gz"))
    assert not listed and len(refused) == 4 and all(entry.reason for entry in refused)
    with pytest.raises(ConfigError, match=r"scan\.sources"):
        list_sources(ScanSettings())


def test_a_name_that_is_not_utf_8_is_refused_and_can_be_shown(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "good.mp4")
    (tmp_path / "in" / os.fsdecode(b"b\xe4d.mp4")).write_bytes(b"x")
    listed, refused = listing(tmp_path / "in")
    assert len(listed) == 1 and [(entry.uri.encode()[-10:], entry.reason) for entry in refused]
    assert "UTF-8" in refused[0].reason and refused[0].uri.endswith("b\\udce4d.mp4")


def test_a_source_whose_bytes_changed_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = touch(tmp_path / "one.mp4", b"before")
    (entry,), _ = listing(path)
    touch(path, b"after it")
    with pytest.raises(InputError, match="another file"), opened_source(entry.source, ScanSettings().bucket):
        pass
