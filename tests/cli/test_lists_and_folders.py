"""One bad row or file never ends a list or a folder: it is refused with line and reason, the others go on, exit code 5."""

from __future__ import annotations

import shutil

import odd_recordings as odd
import pytest
import yaml
from decided_runs import TINY

TEXTS = {"a.mp4": "a square moves", "b.mp4": "another square moves"}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two good recordings and one of each fault."""
    folder = tmp_path_factory.mktemp("recordings")
    odd.good(folder / "a.mp4", seed=1)
    odd.good(folder / "b.mp4", seed=2)
    odd.nan_sound(folder / "nan.mov")
    odd.nan_sound(folder / "inf.mkv", float("inf"), 3.0)
    odd.late_sound(folder / "late.mp4", 3.0)
    odd.changing_size(folder / "size.webm")
    odd.write(
        folder / "live.webm",
        odd.moving(34, seed=3),
        odd.noise(4.25, 3),
        codecs=("libvpx", "libopus"),
        options={"live": "1"},
    )
    (folder / "broken.wmv").write_bytes(b"\0" * 5000)
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:3000])
    (folder / "loop.mp4").symlink_to("loop.mp4")
    return folder


BAD_ROWS = {
    "x" * 300 + ".mp4": "longer than the file system accepts",
    "a\0.mp4": "a NUL character",
    "loop.mp4": "a link that leads back to itself",
    "gone.mp4": "no such file",
    "nan.mov": "NaN",
    "inf.mkv": "infinite samples in its sound, the first at 3.000 s",
    "broken.wmv": "unreadable",
    "cut.mp4": "unreadable",
    '"never closed': "a quote",
    "a red ball, bounces": "no such file",
}


@pytest.fixture
def listed(recordings):
    """A CSV of bad rows between two good ones; the lines of the bad rows by their names."""
    rows = [
        "a.mp4,a square moves",
        *(f"{_field(name)},text {n}" for n, name in enumerate(BAD_ROWS)),
        "b.mp4,another square moves",
    ]
    path = recordings / "list.csv"
    path.write_text("\n".join(["file,text", *rows]) + "\n")
    yield path
    path.unlink()


def _field(name):
    return f'"{name}"' if "," in name else name


def require_every_refusal(refused):
    """``refused``: pairs of line and reason."""
    lines = dict(refused)
    assert sorted(lines) == [line for line in range(3, 3 + len(BAD_ROWS))]
    for line, expected in enumerate(BAD_ROWS.values(), 3):
        assert expected in lines[line], (line, lines[line])


@pytest.fixture
def clips_config(tmp_path):
    tree = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    tree["prompts"] = {"kind": "clips", "num_evaluation_clips": 3}
    path = tmp_path / "clips.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_import(call, listed, clips_config, tmp_path):
    answer = call("prompts", "import", listed, "--config", clips_config, "--runs", tmp_path / "runs", "--json")
    assert answer.code == 5, answer.err
    assert answer.document["recordings"] == 2
    require_every_refusal((row["line"], row["reason"]) for row in answer.document["refused"])


def test_text_prompts(listed):
    from avpref.config.data_settings import TextPrompts
    from avpref.datasets.prompts.text_prompts import text_prompts

    prompts, refused = text_prompts(TextPrompts(prompts=str(listed)), 0)
    assert {prompt.text for prompt in prompts} == set(TEXTS.values())
    require_every_refusal((row.line, row.reason) for row in refused)


def test_scores(call, listed, tmp_path):
    answer = call(
        "candidates", "score", "--clips", listed, "--scorers", "signal", "--runs", tmp_path / "runs", "--json"
    )
    assert answer.code == 5, answer.err
    assert {clip["text"] for clip in answer.document["clips"]} == set(TEXTS.values())
    assert all(clip["scores"]["audio_quality"] is not None for clip in answer.document["clips"])
    lines = [(row["candidate_id"].partition(":")[0], row["message"]) for row in answer.document["quarantined"]]
    require_every_refusal((int(line.removeprefix("line ")), message) for line, message in lines)


def test_validation_of_a_list(call, listed, tmp_path):
    answer = call("rewards", "validate", listed, "--out", tmp_path / "out", "--window-s", "2", "--json")
    assert answer.code == 5, answer.err
    assert answer.document["recordings"] == 2
    reasons = {row["file"]: row["reason"] for row in answer.document["unusable"]}
    assert len(reasons) == len(BAD_ROWS)
    assert "NaN" in reasons["nan.mov"] and "longer than" in next(why for name, why in reasons.items() if "xxx" in name)


def test_validation_of_a_folder_reads_every_suffix_and_lists_the_rest(call, recordings, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(recordings, folder, symlinks=True)
    made = {"TS": ("mpeg2video", "mp2"), "flv": ("flv", "aac"), "3gp": ("mpeg4", "aac"), "nut": ("mpeg4", "aac")}
    for seed, (suffix, codecs) in enumerate(made.items(), 20):
        odd.write(folder / f"c.{suffix}", odd.moving(34, seed=seed), odd.noise(4.25, seed), codecs=codecs)
    odd.good(folder / "e.mp4", seed=6).rename(folder / "no suffix")
    (folder / "notes.txt").write_text("words")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    (folder / "live.m3u8").write_text("#EXTM3U\nhttp://127.0.0.1:1/a.ts\n")
    answer = call("rewards", "validate", folder, "--out", tmp_path / "out", "--window-s", "3", "--json")
    assert answer.code == 5, answer.err
    unusable = {row["file"]: row["reason"] for row in answer.document["unusable"]}
    assert {name.partition("@")[0] for name in unusable} == {
        "nan.mov",
        "inf.mkv",
        "size.webm",
        "broken.wmv",
        "cut.mp4",
        "loop.mp4",
    }
    assert "NaN" in unusable["nan.mov"] and "leads back to itself" in unusable["loop.mp4"]
    assert any("from 32 x 32 to 48 x 48" in reason for reason in unusable.values())
    left_aside = {row["file"]: row["reason"] for row in answer.document["left_aside"]}
    assert set(left_aside) == {"notes.txt", "picture.png", "live.m3u8"}
    assert left_aside["notes.txt"] == left_aside["live.m3u8"] == "a text file"
    assert answer.document["recordings"] == 10


def test_a_folder_with_aside_files_alone_is_not_partial(call, recordings, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(recordings / name, folder)
    (folder / "notes.txt").write_text("words")
    answer = call("rewards", "validate", folder, "--out", tmp_path / "out", "--window-s", "2")
    assert answer.code == 0 and "notes.txt: left aside: a text file" in answer.out


def test_scores_say_that_there_is_no_sound_yet(call, recordings, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text(f"file,text\n{recordings / 'late.mp4'},late\n")
    options = ("--scorers", "signal", "--window-s", "2", "--runs", tmp_path / "runs", "--json")
    answer = call("candidates", "score", "--clips", table, *options)
    assert answer.code == 0
    (clip,) = answer.document["clips"]
    assert clip["scores"]["audio_quality"] is None and "no sound in this window" in clip["reasons"]["audio_quality"]
    assert clip["scores"]["visual_quality"] is not None


def test_the_audio_track_reaches_scores_import_and_validation(call, recordings, clips_config, tmp_path):
    """A track that no file has is refused everywhere; the first one is what is read without a choice."""
    table = tmp_path / "clips.csv"
    table.write_text("file,text\n" + "".join(f"{recordings / name},{text}\n" for name, text in TEXTS.items()))
    runs = ("--runs", tmp_path / "runs", "--json")
    commands = {
        "score": (
            "candidates",
            "score",
            "--clips",
            table,
            "--scorers",
            "signal",
            *runs,
            "--set",
            "clip.audio_track={0}",
        ),
        "import": ("prompts", "import", table, "--config", clips_config, *runs, "--set", "clip.audio_track={0}"),
        "validate": (
            "rewards",
            "validate",
            table,
            "--out",
            tmp_path / "out",
            "--window-s",
            "2",
            "--json",
            "--audio-track",
            "{0}",
        ),
    }
    for name, command in commands.items():
        first, absent = ([str(word).format(track) for word in command] for track in (0, 5))
        assert call(*first).code == 0, name
        answer = call(*absent)
        assert answer.code == 4 and "no audio track fits audio_track" in answer.err, name


def test_a_list_whose_own_name_is_too_long_is_missing_input(call, clips_config, tmp_path):
    name, runs = "x" * 300 + ".csv", ("--runs", tmp_path / "runs")
    for command in (
        ("prompts", "import", name, "--config", clips_config, *runs),
        ("candidates", "score", "--clips", name, "--scorers", "signal", *runs),
        ("rewards", "validate", name, "--out", tmp_path / "out"),
        ("pairs", "select", "--scores", name),
    ):
        answer = call(*command)
        assert answer.code == 4 and "fix:" in answer.err, command
