"""Lists of foreign pairs: what is read of them, and the reason of every row that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avpref.config.data_settings import PairPrompts
from avpref.datasets import tables
from avpref.datasets.foreign_pairs.clip_bytes import ClipPlace, ClipReader
from avpref.datasets.foreign_pairs.pair_layout import MEDIA
from avpref.datasets.foreign_pairs.pair_list import PairList, list_identity, num_rows, read_pairs
from avpref.domain import ALL_DIMENSIONS, Split
from avpref.errors import ConfigError, InputError, MediaError, TableError
from avpref.identity import bytes_sha256


def write_clips(folder: Path, names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.mp4").write_bytes(f"clip {name}".encode())


def sha(name: str) -> str:
    return bytes_sha256(f"clip {name}".encode())


def read(path: Path, **settings: Any) -> PairList:
    return read_pairs(PairPrompts(pairs=str(path), **{"held_out_share": 0.0, **settings}), seed=0)


def write_csv(folder: Path, *lines: str, header: str = "chosen,rejected,text") -> Path:
    write_clips(folder, "abcd")
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_csv_gives_pairs_with_the_hashes_of_their_clips(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "a.mp4,b.mp4,a dog", "c.mp4,b.mp4,a dog", "d.mp4,a.mp4,a cat")
    listed = read(path)
    assert [prompt.text for prompt in listed.prompts] == ["a dog", "a cat"]
    assert [(pair.chosen_sha256, pair.rejected_sha256) for pair in listed.pairs] == [
        (sha("a"), sha("b")),
        (sha("c"), sha("b")),
        (sha("d"), sha("a")),
    ]
    assert listed.pairs[0].prompt_id == listed.pairs[1].prompt_id == listed.prompts[0].prompt_id
    assert {pair.dimension for pair in listed.pairs} == {ALL_DIMENSIONS}
    assert [pair.line for pair in listed.pairs] == [2, 3, 4] and not any(pair.is_verified for pair in listed.pairs)
    assert tables.to_arrow(tables.IMPORTED, listed.pairs).num_rows == 3
    assert num_rows(PairPrompts(pairs=str(path))) == 3


def test_optional_columns_of_a_csv_are_kept(tmp_path: Path) -> None:
    header = "chosen,rejected,text,chosen_score,rejected_score,dimension,taxonomy,pair_id"
    listed = read(write_csv(tmp_path, "a.mp4,b.mp4,a dog,0.75,-1,audio,animals,x1", header=header))
    (pair,) = listed.pairs
    assert json.loads(pair.scores) == {"chosen_score": 0.75, "rejected_score": -1.0}
    assert (pair.dimension, pair.foreign_id, listed.prompts[0].taxonomy) == ("audio", "x1", "animals")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.mp4,b.mp4,  ,,", "empty text"),
        ("a.mp4,a.mp4,a dog,,", "the same clip"),
        ("a.mp4,gone.mp4,a dog,,", "rejected: no such file"),
        ("c.mp4,d.mp4,first,,", "the same pair as row 2"),
        ("d.mp4,c.mp4,first,,", "the reverse of row 2"),
        ("a.mp4,b.mp4,a dog,1,2", "not above"),
        ("a.mp4,b.mp4,a dog,1,1", "not above"),
        ("a.mp4,b.mp4,a dog,1,", "rejected_score is ''"),
        ("a.mp4,b.mp4,a dog,nan,0", "chosen_score is 'nan'"),
        ("a.mp4,b.mp4,a dog", "3 fields where the header has 5"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    header = "chosen,rejected,text,chosen_score,rejected_score"
    listed = read(write_csv(tmp_path, "c.mp4,d.mp4,first,,", line, header=header))
    (refused,) = listed.refused
    assert refused.line == 3 and reason in refused.reason
    assert len(listed.pairs) == 1


def test_without_a_usable_pair_the_first_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 2: chosen and rejected are the same clip"):
        read(write_csv(tmp_path, "a.mp4,a.mp4,a dog"))


def test_a_list_that_is_not_there_or_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.pairs is empty"):
        read_pairs(PairPrompts(), 0)
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "absent")
    (tmp_path / "one.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"ends in '\.parquet'"):
        read(tmp_path / "one.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pairs"):
        read(tmp_path / "empty")


def test_held_out_texts_are_bounded_and_do_not_depend_on_the_order(tmp_path: Path) -> None:
    lines = [f"a.mp4,b.mp4,text {number}" for number in range(40)]
    forwards = read(write_csv(tmp_path / "one", *lines), held_out_share=0.5, num_evaluation_clips=5)
    backwards = read(write_csv(tmp_path / "two", *lines[::-1]), held_out_share=0.5, num_evaluation_clips=5)
    sides = [{prompt.text: prompt.split for prompt in listed.prompts} for listed in (forwards, backwards)]
    assert sides[0] == sides[1] and list(sides[0].values()).count(Split.HELD_OUT) == 5
    held_out = {prompt.prompt_id for prompt in forwards.prompts if prompt.split == Split.HELD_OUT}
    assert {pair.prompt_id for pair in forwards.pairs if pair.split == Split.HELD_OUT} == held_out


def test_some_text_is_left_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all 1 texts would be held out"):
        read(write_csv(tmp_path, "a.mp4,b.mp4,one"), held_out_share=0.99)


def write_jsonl(folder: Path, *rows: dict[str, object]) -> Path:
    write_clips(folder / "train", "abcd")
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def listed_row(chosen: str = "a", rejected: str = "b", **more: Any) -> dict[str, object]:
    return {
        "prompt": "a dog",
        "chosen_file_name": f"{chosen}.mp4",
        "rejected_file_name": f"{rejected}.mp4",
        **more,
    }


def test_a_list_of_files_is_read_and_its_hashes_are_compared(tmp_path: Path) -> None:
    clips: dict[str, Any] = {"chosen_clip": {"sha256": sha("a")}, "rejected_clip": {"sha256": sha("b")}}
    wrong: dict[str, Any] = {"chosen_clip": {"sha256": sha("b")}, "rejected_clip": {"sha256": sha("d")}}
    listed = read(write_jsonl(tmp_path, listed_row(**clips, pair_id="x"), listed_row("c", "d", **wrong)))
    (pair,) = listed.pairs
    assert pair.is_verified and pair.foreign_id == "x"
    assert "other bytes than the list says" in listed.refused[0].reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (listed_row("../../etc/passwd"), "outside of the folder"),
        (listed_row("/etc/passwd"), "outside of the folder"),
        (listed_row("gone"), "no file gone.mp4"),
        ({"prompt": "x", "rejected_file_name": "b.mp4"}, "no file named"),
        (listed_row(label=0), "label is 0"),
    ],
)
def test_files_outside_the_folder_and_absent_ones_are_refused(
    tmp_path: Path, row: dict[str, object], reason: str
) -> None:
    listed = read(write_jsonl(tmp_path, listed_row("c", "d"), row))
    assert [reason in refused.reason for refused in listed.refused] == [True]


def test_a_torn_list_of_files_names_its_line(tmp_path: Path) -> None:
    folder = write_jsonl(tmp_path, listed_row())
    with (folder / "train" / "metadata.jsonl").open("a") as lines:
        lines.write('\n{"prompt": "x", ')
    with pytest.raises(TableError, match="line 2"):
        read(folder)


def write_parquet(folder: Path, names: list[tuple[str, str]], file: str = "train-0.parquet") -> Path:
    """Pairs of clips in a Parquet file, two in a row group."""
    folder.mkdir(parents=True, exist_ok=True)
    media = [
        pa.array([{"bytes": f"clip {pair[side]}".encode(), "path": None} for pair in names], MEDIA) for side in (0, 1)
    ]
    table = pa.table(
        {"prompt": [f"text {number}" for number in range(len(names))], "chosen": media[0], "rejected": media[1]}
    )
    pq.write_table(table, folder / file, row_group_size=2)
    return folder


def test_clips_in_parquet_files_are_read_in_any_order(tmp_path: Path) -> None:
    names = [(f"c{number}", f"r{number}") for number in range(50)]
    folder = write_parquet(tmp_path, names)
    listed = read(folder)
    assert [pair.chosen_sha256 for pair in listed.pairs] == [sha(chosen) for chosen, _ in names]
    reader = ClipReader(folder)
    for row in (0, 1, 49, 3, 2, 20, 21, 0):
        assert reader.read(ClipPlace("train-0.parquet", row, "rejected")) == f"clip r{row}".encode()
    for place in (
        ClipPlace("train-0.parquet", 50, "chosen"),
        ClipPlace("gone.parquet", 0, "chosen"),
        ClipPlace("x.mp4"),
    ):
        with pytest.raises(MediaError):
            reader.read(place)


def test_bytes_without_a_path_are_read_too_and_empty_ones_refused(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "b"], "chosen": [b"clip a", None], "rejected": [b"clip b", b"clip c"]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    listed = read(tmp_path)
    assert len(listed.pairs) == 1 and "has no chosen clip" in listed.refused[0].reason


def test_parquet_files_without_the_columns_are_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "chosen": [b"x"]}), tmp_path / "pairs.parquet")
    with pytest.raises(TableError, match="no column rejected"):
        read(tmp_path)
    pq.write_table(pa.table({"prompt": ["a"], "chosen": ["x"], "rejected": ["y"]}), tmp_path / "pairs.parquet")
    with pytest.raises(TableError, match="column chosen is string"):
        read(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(TableError, match="readable Parquet"):
        read(tmp_path)


def test_of_several_splits_the_training_split_alone_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", [("a", "b")], "train-0.parquet")
    write_parquet(tmp_path / "data", [("c", "d")], "test-0.parquet")
    assert [pair.chosen_file for pair in read(tmp_path).pairs] == ["data/train-0.parquet"]


def test_the_identity_of_a_list_changes_with_its_content(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, [("a", "b"), ("c", "d")])
    settings = PairPrompts(pairs=str(folder))
    before = list_identity(settings)
    assert list_identity(settings) == before
    write_parquet(tmp_path, [("a", "b"), ("c", "d"), ("e", "f")])
    assert list_identity(settings) != before
