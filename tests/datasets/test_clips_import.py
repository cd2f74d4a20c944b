"""Import of recordings: every row ends up used or refused with a reason, and recordings never straddle the split."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from present import present

from avpref.config.data_settings import ClipPrompts
from avpref.datasets.prompts.clips import ground_truth_clip, prompts, read_clip_list, recording_of
from avpref.domain import Split, prompt_id
from avpref.errors import ConfigError, InputError, MediaError, TableError
from avpref.identity import file_sha256
from avpref.media.geometry import ClipShape
from avpref.media.writing import encode_clip

SHAPE = ClipShape(num_frames=8, height_px=32, width_px=32, fps_hz=8.0, sample_rate_hz=16000)
WEIRD_NAMES = ("a b.mp4", "Straße № 1 – 猫.mp4", "take #3 (100%).mp4", "it's, quoted.mp4")


def recording(seed: int, duration_s: float = 3.0) -> bytes:
    generator = np.random.default_rng(seed)
    count = round(duration_s * 8)
    shades = generator.integers(40, 200, (count, 1, 1, 3), np.uint8)
    audio = generator.normal(0, 0.1, round(duration_s * 16000)).astype(np.float32)
    return encode_clip(np.broadcast_to(shades, (count, 32, 48, 3)), 8.0, audio, 16000)


def silent_film(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 32000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def table(folder: Path, *rows: str, header: str = "file,text") -> Path:
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four recordings a.mp4 … d.mp4 of 3, 4, 5 and 6 s."""
    for number, name in enumerate("abcd"):
        (tmp_path / f"{name}.mp4").write_bytes(recording(number, 3.0 + number))
    return tmp_path


@pytest.fixture
def clips(folder) -> Path:
    return table(folder, "a.mp4,a", "b.mp4,b", "c.mp4,c", "d.mp4,d")


def settings(path: Path, **changes) -> ClipPrompts:
    return ClipPrompts(clips=str(path), **changes)


def refusals(path: Path) -> dict[str, str]:
    return {row.file: row.reason for row in read_clip_list(path).refused}


# --- the table ----------------------------------------------------------------------------------------------------------


def test_rows_are_probed_hashed_and_resolved_against_the_csv(clips, folder, monkeypatch):
    monkeypatch.chdir("/")
    listed = read_clip_list(clips)
    assert [row.file for row in listed.rows] == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert listed.refused == ()
    for number, row in enumerate(listed.rows):
        assert row.path == (folder / row.file).resolve()
        assert row.sha256 == file_sha256(folder / row.file)
        assert row.duration_s == pytest.approx(3.0 + number, abs=0.1)
        assert row.line == number + 2


def test_taxonomy_column_order_and_byte_order_mark(folder):
    path = folder / "clips.csv"
    path.write_bytes('﻿taxonomy,file,text\n"0,2",a.mp4,"one, two"\n,b.mp4,"two\nlines"\n\n'.encode())
    first, second = read_clip_list(path).rows
    assert (first.text, first.taxonomy) == ("one, two", "0,2")
    assert (second.text, second.taxonomy, second.line) == ("two\nlines", "", 4)


@pytest.mark.parametrize("name", WEIRD_NAMES)
def test_weird_names(folder, name):
    (folder / name).write_bytes(recording(99))
    path = table(folder, f'"{name}",x', "a.mp4,y")
    assert [row.file for row in read_clip_list(path).rows] == [name, "a.mp4"]
    made, _ = prompts(settings(path), [SHAPE], seed=0)
    odd = next(prompt for prompt in made if prompt.text == "x")
    assert odd.ground_truth_path == str((folder / name).resolve())
    assert recording_of(odd) == "r" + odd.ground_truth_sha256[:16]
    assert present(ground_truth_clip(odd, SHAPE).frames).shape == (8, 32, 32, 3)


def test_every_bad_row_is_refused_with_its_reason(folder):
    silent_film(folder / "mute.mp4")
    sound_only(folder / "dark.m4a")
    whole = (folder / "a.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "head.mp4").write_bytes(whole[:40])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.mp4").write_text("not a film")
    (folder / "sub.mp4").mkdir()
    shutil.copy(folder / "a.mp4", folder / "copy of a.mp4")
    path = table(
        folder,
        "a.mp4,fine",
        "mute.mp4,no sound",
        "dark.m4a,no picture",
        "cut.mp4,truncated",
        "head.mp4,truncated",
        "empty.mp4,empty",
        "notes.mp4,text",
        "sub.mp4,folder",
        "nowhere.mp4,missing",
        "b.mp4,  ",
        ",no file",
        "a.mp4,again",
        "copy of a.mp4,a copy",
        "c.mp4,one, too many",
        "d.mp4",
    )
    listed = read_clip_list(path)
    reasons = refusals(path)
    assert [row.file for row in listed.rows] == ["a.mp4"]
    assert len(listed.refused) == 14
    assert reasons["mute.mp4"] == "no sound"
    assert reasons["dark.m4a"] == "no picture"
    for name in ("cut.mp4", "head.mp4", "empty.mp4", "notes.mp4"):
        assert reasons[name].startswith("unreadable: "), reasons[name]
    assert (reasons["sub.mp4"], reasons["nowhere.mp4"]) == ("a folder, not a file", "no such file")
    assert reasons["b.mp4"] == "empty text"
    assert reasons[""] == "no file named"
    assert reasons["a.mp4"] == reasons["copy of a.mp4"] == "the same recording as line 2"
    assert reasons["c.mp4"].startswith("3 fields where the header has 2")
    assert reasons["d.mp4"].startswith("1 fields where the header has 2")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("file,caption", "no column 'text'; unknown column 'caption'"),
        ("File,text", "unknown column 'File' (did you mean 'file'?)"),
        ("file,text,taxnomy", "did you mean 'taxonomy'?"),
        ("file,text,text", "column 'text' twice"),
        ("file;txet", "unknown column 'txet' (did you mean 'text'?)"),
    ],
)
def test_headers_that_are_refused(folder, header, message):
    with pytest.raises(TableError) as error:
        read_clip_list(table(folder, "a.mp4,x,y", header=header))
    assert message in error.value.found
    assert error.value.expected and error.value.fix


def test_empty_csv_header_alone_and_no_csv(folder):
    empty = folder / "empty.csv"
    empty.write_bytes(b"")
    with pytest.raises(TableError, match="an empty file"):
        read_clip_list(empty)
    assert read_clip_list(table(folder)).rows == ()
    with pytest.raises(InputError, match="No such file"):
        read_clip_list(folder / "nothing.csv")


def test_csv_that_is_not_utf8(folder):
    path = folder / "latin.csv"
    path.write_bytes("file,text\na.mp4,fine\nb.mp4,un café\n".encode("latin-1"))
    with pytest.raises(TableError) as error:
        read_clip_list(path)
    assert "not UTF-8" in error.value.found
    assert error.value.fix.startswith("iconv ")


def test_quotes_that_never_close(folder):
    listed = read_clip_list(table(folder, 'a.mp4,"never closed', "b.mp4,fine"))
    assert [row.file for row in listed.rows] == ["b.mp4"]
    assert [(row.line, row.reason[:18]) for row in listed.refused] == [(2, 'a quote (") that i')]


def test_import_does_not_hold_recordings_in_memory(folder):
    ballast = folder / "large.mp4"
    ballast.write_bytes(recording(5))
    with open(ballast, "ab") as stream:  # an mp4 box that players skip
        size = 48 * 2**20
        stream.write(size.to_bytes(4, "big") + b"free")
        stream.truncate(stream.tell() + size - 8)
    tracemalloc.start()
    listed = read_clip_list(table(folder, "large.mp4,x"))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(listed.rows) == 1
    assert peak_bytes < 8 * 2**20


# --- prompts ------------------------------------------------------------------------------------------------------------


def test_one_prompt_per_window_of_training_recordings(clips):
    made, refused = prompts(settings(clips, held_out_share=0.25), [SHAPE], seed=3)
    training = [prompt for prompt in made if prompt.split is Split.TRAIN]
    assert refused == []
    by_text: dict[str, list[float]] = {}
    for prompt in training:
        by_text.setdefault(prompt.text, []).append(prompt.ground_truth_start_s)
    assert len(by_text) == 3
    for text, starts_s in by_text.items():
        assert starts_s == list(range(3 + "abcd".index(text)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_no_recording_is_on_both_sides_and_no_side_is_empty(clips, seed, share):
    made, _ = prompts(settings(clips, held_out_share=share), [SHAPE], seed)
    sides = {split: {recording_of(prompt) for prompt in made if prompt.split is split} for split in Split}
    assert sides[Split.TRAIN] and sides[Split.HELD_OUT]
    assert not sides[Split.TRAIN] & sides[Split.HELD_OUT]
    if share != 0.5:
        assert len(sides[Split.HELD_OUT]) == {0.01: 1, 0.99: 3}[share], "at least one and never all"


def test_the_split_follows_bytes_and_seed_not_names_or_order(clips, folder):
    def held_out(path: Path, seed: int) -> set[str]:
        made, _ = prompts(settings(path, held_out_share=0.5), [SHAPE], seed)
        return {recording_of(prompt) for prompt in made if prompt.split is Split.HELD_OUT}

    before = {seed: held_out(clips, seed) for seed in range(8)}
    assert len({frozenset(side) for side in before.values()}) > 1
    (folder / "d.mp4").rename(folder / "aa.mp4")
    moved = table(folder, "aa.mp4,d", "c.mp4,c", "b.mp4,b", "a.mp4,a")
    assert {seed: held_out(moved, seed) for seed in range(8)} == before


@pytest.mark.parametrize("num_clips", [1, 5, 40])
def test_evaluation_prompts_are_as_many_as_asked_and_distinct(clips, num_clips):
    made, _ = prompts(settings(clips, held_out_share=0.5, num_evaluation_clips=num_clips), [SHAPE], seed=1)
    evaluation = [prompt for prompt in made if prompt.split is Split.HELD_OUT]
    assert len(evaluation) == num_clips
    assert len({prompt.prompt_id for prompt in made}) == len(made)
    assert len({prompt.source for prompt in made}) == len(made)
    for prompt in made:
        assert prompt.prompt_id == prompt_id(prompt.text, prompt.source, prompt.split)
        assert prompt.source == f"{recording_of(prompt)}#{prompt.source.split('#')[1]}"
    if num_clips >= 2:
        assert len({recording_of(prompt) for prompt in evaluation}) == 2, "taken in turn from every held-out recording"


def test_instances_repeat_the_same_windows(clips):
    made, _ = prompts(settings(clips, held_out_share=0.25, num_evaluation_clips=40), [SHAPE], seed=1)
    windows = [prompt.ground_truth_start_s for prompt in made if prompt.split is Split.HELD_OUT]
    period = len(set(windows))
    assert windows[period:] == windows[:-period]


def test_prompts_are_the_same_every_time_and_keep_the_row(folder):
    path = table(folder, "a.mp4,first,0", "b.mp4,second,", header="file,text,taxonomy")
    made, _ = prompts(settings(path), [SHAPE], seed=0)
    assert made == prompts(settings(path), [SHAPE], seed=0)[0]
    assert {(prompt.text, prompt.taxonomy) for prompt in made} == {("first", "0"), ("second", "")}
    assert {prompt.ground_truth_sha256 for prompt in made} == {file_sha256(folder / f"{name}.mp4") for name in "ab"}


def test_recordings_shorter_than_a_window_are_refused_in_order(folder):
    long_shape = replace(SHAPE, num_frames=32)  # 4 s: a.mp4 has 3
    path = table(folder, "gone.mp4,x", "a.mp4,a", "gone too.mp4,x", "c.mp4,c", "d.mp4,d")
    made, refused = prompts(settings(path), [long_shape], seed=0)
    assert [row.line for row in refused] == [2, 3, 4]
    assert "shorter than one window of 4 s" in refused[1].reason
    assert {prompt.text for prompt in made} == {"c", "d"}


def test_fewer_than_two_usable_recordings(folder):
    path = table(folder, "a.mp4,a", "gone.mp4,b")
    with pytest.raises(InputError) as error:
        prompts(settings(path), [SHAPE], seed=0)
    assert "1 usable recordings, 1 refused" in error.value.found
    assert "line 3: gone.mp4: no such file" in error.value.found


def test_no_csv_named_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"prompts\.clips is empty"):
        prompts(ClipPrompts(), [SHAPE], seed=0)


# --- ground truth -------------------------------------------------------------------------------------------------------


def test_every_window_can_be_read_at_the_models_shape(clips):
    made, _ = prompts(settings(clips), [SHAPE], seed=0)
    for prompt in made[::4]:
        clip = ground_truth_clip(prompt, SHAPE)
        frames, audio = present(clip.frames), present(clip.audio)
        assert frames.shape == (8, 32, 32, 3) and audio.shape == (16000,)
        assert clip.start_s == prompt.ground_truth_start_s
        encode_clip(frames, clip.fps_hz, audio, clip.sample_rate_hz)


def test_a_window_is_the_recordings_own_piece(clips):
    made, _ = prompts(settings(clips), [SHAPE], seed=0)
    windows = [prompt for prompt in made if prompt.text == "d" and prompt.source.endswith(("#1", "#2"))]
    original = np.random.default_rng(3).integers(40, 200, (48, 1, 1, 3), np.uint8).astype(float)
    for prompt in windows:
        start = round(prompt.ground_truth_start_s * 8)
        found = present(ground_truth_clip(prompt, SHAPE).frames).mean(axis=(1, 2))
        np.testing.assert_allclose(found.mean(axis=1), original[start : start + 8, 0, 0].mean(axis=1), atol=4)


def test_changed_and_missing_files_are_noticed(clips, folder):
    made, _ = prompts(settings(clips), [SHAPE], seed=0)
    prompt = next(prompt for prompt in made if prompt.text == "a")
    ground_truth_clip(prompt, SHAPE)
    (folder / "a.mp4").write_bytes(recording(77))
    with pytest.raises(InputError, match="changed since the import"):
        ground_truth_clip(prompt, SHAPE)
    (folder / "a.mp4").unlink()
    with pytest.raises(InputError, match="no such file"):
        ground_truth_clip(prompt, SHAPE)


def test_a_window_past_the_end_is_a_media_error(clips):
    made, _ = prompts(settings(clips), [SHAPE], seed=0)
    with pytest.raises(MediaError):
        ground_truth_clip(replace(made[0], ground_truth_start_s=60.0), SHAPE)


def test_the_real_recordings(media):
    made, refused = prompts(
        settings(media / "clips.csv", num_evaluation_clips=6), [replace(SHAPE, num_frames=16)], seed=0
    )
    assert refused == []
    assert len({recording_of(prompt) for prompt in made}) == len(read_clip_list(media / "clips.csv").rows) >= 2
    last = max(made, key=lambda prompt: prompt.ground_truth_start_s)
    assert present(ground_truth_clip(last, replace(SHAPE, num_frames=16)).audio).shape == (32000,)
