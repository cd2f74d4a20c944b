"""Recordings that show the same are found after re-encoding, and others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pool_clips import FPS_HZ, Encoding, plain_video, reencoded, scene, tune, with_cuts, write_video

from avpref.media.reading_rules import DEFAULT_READING
from avpref.pool.pool_tables import SimilarRow
from avpref.pool.scan.duplicates import (
    MAX_BUCKET,
    PART,
    SAME_PICTURE,
    SAME_RECORDING,
    Fingerprints,
    groups,
    similar,
    sound_error,
)
from avpref.pool.scan.picture_hashes import differing_bits, picture_hash
from avpref.pool.scan.recording_choice import ReadableSource, choose
from avpref.pool.scan.sound_prints import NO_PRINT, RATE_HZ, prints_of
from avpref.pool.scan.source_profile import profile


def fingerprints(name: str, path: Path) -> Fingerprints:
    profiled = profile(path, DEFAULT_READING)
    hashes = np.array(profiled.pictures.hashes, np.int64)
    return Fingerprints(name, hashes, np.array(profiled.pictures.slots, np.int64), profiled.sound_prints)


def test_a_hash_survives_a_smaller_picture_and_a_flat_picture_has_none() -> None:
    grey = scene(1, 1)[0].mean(axis=2).astype(np.uint8)
    first, second = picture_hash(grey), picture_hash(grey[::2, ::2])
    assert first is not None and second is not None
    other = picture_hash(scene(2, 1)[0].mean(axis=2).astype(np.uint8))
    near, far = (differing_bits(np.array([first]), np.array([value]))[0] for value in (second, other))
    assert near <= 3 and far >= 16
    assert picture_hash(np.full((72, 128), 90, np.uint8)) is None


def test_prints_survive_noise_and_a_small_delay_and_silence_has_none() -> None:
    sound = tune(3, 4.0, RATE_HZ)
    noisy = np.roll(sound, 100) + np.random.default_rng(0).normal(0, 0.005, len(sound)).astype(np.float32)
    error = sound_error(prints_of(sound), prints_of(noisy), 0)
    assert error is not None and error < 0.25
    other = sound_error(prints_of(sound), prints_of(tune(4, 4.0, RATE_HZ)), 0)
    assert other is not None and other > 0.4
    assert set(prints_of(np.zeros(RATE_HZ, np.float32)).tolist()) == {NO_PRINT}


def test_copies_are_told_from_parts_other_sounds_and_other_videos(tmp_path: Path) -> None:
    paths = {
        "a original": plain_video(tmp_path / "a.mp4", 1, 4.0),
        "b reencoded": reencoded(tmp_path / "b.mp4", 1, 4.0),
        "c other": plain_video(tmp_path / "c.mp4", 2, 4.0),
        "d part": write_video(tmp_path / "d.mp4", scene(1, 100)[25:75], tune(1, 4.0)[16000:48000]),
        "e other sound": write_video(tmp_path / "e.mp4", scene(1, 100), tune(9, 4.0)),
        "f late sound": write_video(tmp_path / "f.mp4", scene(1, 100), np.roll(tune(1, 4.0), 4800)),
    }
    rows = {
        (row.recording_id[0], row.other_id[0]): row for row in similar([fingerprints(*item) for item in paths.items()])
    }
    assert rows["a", "b"].kind == SAME_RECORDING
    assert rows["a", "d"].kind == PART and rows["a", "d"].shift_s == pytest.approx(1.0)
    assert rows["a", "e"].kind == SAME_PICTURE == rows["a", "f"].kind
    assert not [pair for pair in rows if "c" in pair]


def test_the_result_does_not_depend_on_the_order_and_crowded_keys_are_linked_to_the_first(tmp_path: Path) -> None:
    base = fingerprints("x", plain_video(tmp_path / "a.mp4", 1))
    many = [Fingerprints(f"r{k:03d}", base.hashes, base.slots, base.prints) for k in range(MAX_BUCKET + 6)]
    rows = similar(many)
    assert rows == similar(many[::-1])
    connected = groups([entry.recording_id for entry in many], [(row.recording_id, row.other_id) for row in rows])
    assert set(connected.values()) == {"r000"}


def source(name: str, recording: str, pixels: int, duration_s: float = 4.0, group: str = "") -> ReadableSource:
    return ReadableSource(name, recording, group, pixels, duration_s, 100)


def link(first: str, second: str, kind: str, share: float = 1.0) -> SimilarRow:
    return SimilarRow(first, second, kind, 0.0, share, 0.1)


def test_the_best_source_is_used_and_what_is_not_used_removes_nothing() -> None:
    sources = [source("s1", "r1", 100), source("s2", "r2", 400), source("s3", "r3", 200), source("s4", "r1", 100)]
    rows = choose(sources, [link("r1", "r3", SAME_RECORDING), link("r2", "r3", SAME_RECORDING)], drops=True)
    used = {row.source_id: row.is_used for row in rows}
    assert used == {"s1": True, "s2": True, "s3": False, "s4": False}
    assert {row.group_id for row in rows} == {"g1"}
    assert [row.duplicate_of for row in rows if not row.is_used] == ["s2", "s1"]
    kept = choose(sources, [link("r1", "r3", SAME_RECORDING)], drops=False)
    assert [row.source_id for row in kept if not row.is_used] == ["s4"]


def test_a_part_gives_way_to_the_longer_one_and_other_sound_only_joins_the_group() -> None:
    sources = [
        source("s1", "r1", 900, 2.0),
        source("s2", "r2", 100, 9.0),
        source("s3", "r3", 100),
        source("s4", "r4", 1, group="day"),
    ]
    sources.append(source("s5", "r5", 1, group="day"))
    rows = choose(sources, [link("r1", "r2", PART), link("r2", "r3", SAME_PICTURE)], drops=True)
    assert [row.is_used for row in rows] == [False, True, True, True, True]
    assert [row.group_id for row in rows] == ["g1", "g1", "g1", "g4", "g4"]


def test_a_profile_has_every_frame_and_finds_variable_rates(tmp_path: Path) -> None:
    profiled = profile(with_cuts(tmp_path / "cuts.mp4", [30, 20]), DEFAULT_READING)
    assert len(profiled.frame_times_s) == 50 and not profiled.is_variable_rate
    assert profiled.end_s == pytest.approx(50 / FPS_HZ, abs=0.002)
    ticks = np.cumsum([0] + [20, 60] * 25)[:50].tolist()
    varying = write_video(tmp_path / "v.mkv", scene(1, 50), tune(1, 2.0), Encoding(ticks=ticks))
    assert profile(varying, DEFAULT_READING).is_variable_rate
