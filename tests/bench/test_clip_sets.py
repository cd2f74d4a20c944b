"""Clips of folders and rows of prompts: which belong together, and what is left out with which reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_clips import write_clip, write_wav

from avpref.bench.bench_sets import read_sets
from avpref.bench.clips.clip_files import find_clips
from avpref.bench.clips.matching import generated_set, reference_set
from avpref.bench.clips.prompt_rows import read_prompts
from avpref.errors import InputError, TableError
from avpref.media.reading_rules import DEFAULT_READING

HEADER = "path,audio_path,text,audio_text,cat0_ind,cat1_ind,cat2_ind,cat3_ind,cat4_ind,video_fps\n"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_sound_beside_a_video_belongs_to_it_and_two_videos_of_one_name_are_lost(tmp_path: Path) -> None:
    folder = touch(
        tmp_path, "a.mp4", "a.wav", "b.mp4", "deep/c.MP4", "d.mp4", "d.webm", "e.wav", ".hidden.mp4", "x.txt"
    )
    listed = find_clips(folder)
    assert [(clip.key, clip.video is not None, clip.sound is not None) for clip in listed.clips] == [
        ("a", True, True),
        ("b", True, False),
        ("deep/c", True, False),
        ("e", False, True),
    ]
    assert [(lost.key, lost.reason) for lost in listed.lost] == [("d", "duplicate name: d.mp4, d.webm")]


def test_a_folder_without_clips_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no clip"):
        find_clips(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        find_clips(tmp_path / "absent")


def test_the_published_columns_are_read_as_they_are(tmp_path: Path) -> None:
    csv = tmp_path / "prompts.csv"
    rows = 'a/dog.mp4,,"a dog, barking",,0,1,"0,2",1,"1"\nb/cat.mp4,b/cat.wav,a cat,meow,4,2,3,2,"0,2"\n'
    csv.write_text(HEADER + rows.replace("\n", ",16\n"), encoding="utf-8")
    prompts = read_prompts(csv)
    first, second = prompts.rows
    assert (first.key, first.text, first.sound_text, first.path) == (
        "sample_0000",
        "a dog, barking",
        "a dog, barking",
        "a/dog.mp4",
    )
    assert first.labels == {"cat0_ind": (0,), "cat1_ind": (1,), "cat2_ind": (0, 2), "cat3_ind": (1,), "cat4_ind": (1,)}
    assert (second.sound_text, second.audio_path, second.labels["cat4_ind"]) == ("meow", "b/cat.wav", (0, 2))
    assert prompts.has_sound_text and [aspect.aspect for aspect in prompts.aspects][-1] == "Spatial Composition"


@pytest.mark.parametrize(("cell", "reason"), [("7", "categories 0 to 4"), ("x", "no index of a category")])
def test_a_row_with_a_wrong_label_is_lost_and_the_others_are_kept(tmp_path: Path, cell: str, reason: str) -> None:
    csv = tmp_path / "p.csv"
    csv.write_text(f"text,cat0_ind\none,0\ntwo,{cell}\n")
    matched = generated_set(find_clips(touch(tmp_path / "g", "sample_0000.mp4", "sample_0001.mp4")), read_prompts(csv))
    assert [sample.key for sample in matched.samples] == ["sample_0000"]
    assert reason in matched.lost[0].reason and matched.lost[0].key == "sample_0001"


def test_prompts_without_text_or_rows_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("caption\nx\n")
    (tmp_path / "b.csv").write_text("text\n")
    with pytest.raises(TableError, match="columns caption"):
        read_prompts(tmp_path / "a.csv")
    with pytest.raises(TableError, match="has no rows"):
        read_prompts(tmp_path / "b.csv")


def test_a_missing_clip_is_a_row_with_a_reason_and_never_a_neighbour(tmp_path: Path) -> None:
    csv = tmp_path / "p.csv"
    csv.write_text("path,text\nsample_0002.mp4,one\nsample_0000.mp4,two\nsample_0001.mp4,three\n")
    prompts = read_prompts(csv)
    generated = generated_set(
        find_clips(touch(tmp_path / "g", "sample_0000.mp4", "sample_0002.mp4", "other.mp4")), prompts
    )
    assert [(sample.key, sample.text) for sample in generated.samples] == [
        ("sample_0000", "one"),
        ("sample_0002", "three"),
    ]
    assert {lost.key: lost.reason for lost in generated.lost} == {
        "sample_0001": "missing: no clip named sample_0001",
        "other": "no row of the prompts names it",
    }
    reference = reference_set(
        find_clips(touch(tmp_path / "r", "sample_0000.mp4", "sample_0001.mp4", "sample_0002.mp4")), prompts
    )
    assert [sample.clip.key for sample in reference.samples] == ["sample_0002", "sample_0000", "sample_0001"]


def test_predictions_are_those_that_the_rows_name(tmp_path: Path) -> None:
    csv = tmp_path / "p.csv"
    csv.write_text("text,pred_video_path,pred_audio_path\none,v/b.mp4,v/b.flac\ntwo,v/absent.mp4,\n")
    folder = touch(tmp_path / "g", "v/b.mp4", "v/b.flac", "v/c.mp4")
    matched = generated_set(find_clips(folder), read_prompts(csv))
    (sample,) = matched.samples
    assert (sample.clip.video, sample.clip.sound) == (folder / "v" / "b.mp4", folder / "v" / "b.flac")
    assert "missing: v/absent.mp4" in [lost.reason for lost in matched.lost]


def test_clips_of_no_row_are_an_error(tmp_path: Path) -> None:
    csv = tmp_path / "p.csv"
    csv.write_text("text\none\n")
    with pytest.raises(InputError, match="no generated clip belongs to a row"):
        generated_set(find_clips(touch(tmp_path / "g", "dog.mp4")), read_prompts(csv))


def test_sets_say_what_differs_and_what_cannot_be_read(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    write_clip(clips / "a.mp4", 0, 1.0)
    write_clip(clips / "b.mp4", 1, 1.0, fps_hz=12.0)
    (clips / "c.mp4").write_bytes((clips / "a.mp4").read_bytes())
    (clips / "d.mp4").write_bytes(b"no clip at all")
    from bench_clips import sound_of

    write_wav(clips / "b.wav", sound_of(1, 1.0, rate_hz=8000), 8000)
    sets = read_sets(clips, None, None, DEFAULT_READING)
    assert [sample.key for sample in sets.generated.samples] == ["a", "b", "c"] and sets.reference is None
    (lost,) = sets.generated.lost
    assert lost.key == "d" and lost.reason.startswith("unreadable: ")
    text = "\n".join(sets.generated.warnings)
    assert (
        "mixed frame rates (2 at 8 Hz, 1 at 12 Hz)" in text
        and "mixed sample rates (2 at 16000 Hz, 1 at 8000 Hz)" in text
    )
    assert "a and c are the same bytes" in text
    remarks = {sample.key: sample.facts["remark"] for sample in sets.generated.samples}
    assert remarks["a"] == remarks["c"] == ""
    assert remarks["b"] == "frame rate 12 Hz where most have 8 Hz, sample rate 8000 Hz where most have 16000 Hz"


def test_the_ground_truth_of_the_prompts_is_the_reference(tmp_path: Path) -> None:
    write_clip(tmp_path / "g" / "sample_0000.mp4", 0, 1.0)
    write_clip(tmp_path / "real" / "dog.mp4", 1, 1.0)
    (tmp_path / "p.csv").write_text("path,text\nreal/dog.mp4,one\nreal/absent.mp4,two\n")
    sets = read_sets(tmp_path / "g", None, tmp_path / "p.csv", DEFAULT_READING)
    assert [sample.key for sample in sets.reference_clips.samples] == ["sample_0000"]
    assert [lost.reason for lost in sets.reference_clips.lost] == ["missing: real/absent.mp4"]


def test_a_set_without_a_readable_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no generated clip can be used"):
        read_sets(touch(tmp_path, "a.mp4"), None, None, DEFAULT_READING)
