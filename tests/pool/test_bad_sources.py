"""Sources that cannot be used, each with a row and a reason: no tracks, cover art, damage in the middle, hours of length."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pool_clips import PLAIN, BuildPool, plain_video, scene, tune, write_video

from avpref.config.storage_settings import ObjectStorage
from avpref.pool.lost_items import read_lost
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import CLIPS, SOURCES
from avpref.storage.object_files import ObjectFiles


def reasons(pool: PoolFolder) -> dict[str, str]:
    rows = pool.tables.read(SOURCES).to_pylist()
    return {Path(row["member"] or row["uri"]).name: row["reason"] for row in rows}


def sound_with_cover(path: Path) -> Path:
    """An m4a with a picture of its cover."""
    with av.open(str(path), "w", format="mp4") as container:
        track = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        assert isinstance(cover, av.VideoStream) and isinstance(track, av.AudioStream)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(scene(1, 1, 64, 64)[0], format="rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        container.mux([*cover.encode(frame), *cover.encode(None)])
        part = av.AudioFrame.from_ndarray(tune(1, 3.0)[None], format="fltp", layout="mono")
        part.sample_rate, part.pts, part.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux([*track.encode(part), *track.encode(None)])
    return path


def damaged(path: Path, seed: int) -> Path:
    """A video whose bytes are overwritten in the middle of its media."""
    plain_video(path, seed, 4.0, replace(PLAIN, gop=25))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(data)
    return path


def test_every_bad_source_has_a_row_with_its_reason(tmp_path: Path, build_pool: BuildPool) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    plain_video(folder / "good.mp4", 1)
    write_video(folder / "mute.mp4", scene(2, 75), None)
    write_video(folder / "song.m4a", None, tune(2, 3.0))
    sound_with_cover(folder / "cover.m4a")
    damaged(folder / "damaged.mp4", 3)
    (folder / "half.mp4").write_bytes((folder / "good.mp4").read_bytes()[:-3000])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video")
    pool = build_pool(folder)
    reason_of = reasons(pool)
    assert reason_of["good.mp4"] == "" and reason_of["mute.mp4"] == "no sound" and reason_of["song.m4a"] == "no picture"
    assert reason_of["cover.m4a"] == "no picture (cover art alone)"
    assert all(reason_of[name] for name in ("half.mp4", "empty.mp4", "text.mp4"))
    assert len(reason_of) == 8 and pool.tables.num_rows(CLIPS) >= 1
    lost = (pool.root / "lost.csv").read_text(encoding="utf-8")
    assert all(name in lost for name, reason in reason_of.items() if reason)


def test_a_pool_without_a_usable_source_is_built_and_says_why(tmp_path: Path, build_pool: BuildPool) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    pool = build_pool(tmp_path / "text.mp4", sets=("filter.preset=javisbench",))
    assert (pool.root / "clips.csv").read_text(encoding="utf-8") == "file,text,taxonomy,group\n"
    assert "text.mp4" in (pool.root / "lost.csv").read_text(encoding="utf-8")


@pytest.mark.slow
def test_damage_never_ends_the_work_on_others(tmp_path: Path, build_pool: BuildPool) -> None:
    """The decoder may conceal the damage; then the clip is used, else the source has a row. Nothing stops."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        damaged(folder / f"d{number}.mp4", 10 + number)
    plain_video(folder / "good.mp4", 1)
    pool = build_pool(folder)
    listed = (pool.root / "lost.csv").read_text(encoding="utf-8")
    used = {row["source_id"] for row in pool.tables.read(CLIPS).to_pylist()}
    for row in pool.tables.read(SOURCES).to_pylist():
        assert row["source_id"] in used or Path(row["uri"]).name in listed


@pytest.mark.slow
def test_a_tar_that_ends_early_gives_clips_of_its_whole_members(tmp_path: Path, build_pool: BuildPool) -> None:
    videos = [plain_video(tmp_path / f"{number}.mp4", 30 + number).read_bytes() for number in range(2)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, data in enumerate(videos):
            entry = tarfile.TarInfo(f"{number}.mp4")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    path = tmp_path / "shard.tar"
    path.write_bytes(buffer.getvalue()[: 512 + len(videos[0]) + 3000])
    pool = build_pool(path, sets=("write.text=x",))
    assert pool.tables.num_rows(CLIPS) == 1
    assert [("ends early" in row.reason) for row in read_lost(pool, "scan")] == [True]


def test_sources_of_a_bucket_are_read_in_place(tmp_path: Path, bucket: ObjectStorage, build_pool: BuildPool) -> None:
    files = ObjectFiles(bucket, bucket.prefix)
    files.commit_once("in/a.mp4", plain_video(tmp_path / "a.mp4", 40).read_bytes())
    files.commit_once("in/a.txt", b"a pattern")
    files.commit_once("in/note.pdf", b"x")
    access = f"{{endpoint: '{bucket.endpoint}', allow_http: true}}"
    pool = build_pool(files.uri("in"), sets=(f"scan.bucket={access}",))
    assert "a pattern" in (pool.root / "clips.csv").read_text(encoding="utf-8")
    assert [row.uri.endswith("note.pdf") for row in read_lost(pool, "scan")] == [True]


@pytest.mark.slow
def test_three_hours_are_scanned_in_bounded_memory_and_divided(tmp_path: Path, build_pool: BuildPool) -> None:
    import resource

    frames = scene(50, 1, 48, 64).repeat(3600 * 3, 0)
    encoding = replace(PLAIN, fps_hz=1, rate_hz=8000, gop=300)
    write_video(tmp_path / "long.mp4", frames, np.tile(tune(50, 60.0, 8000), 180), encoding)
    del frames
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pool = build_pool(tmp_path / "long.mp4", until="cut")
    assert pool.tables.num_rows(CLIPS) == 180
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000
