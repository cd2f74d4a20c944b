"""A whole pool from files to lists: nothing is lost silently, thresholds recompute nothing, and a second build does nothing."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pool_clips import FPS_HZ, BuildPool, Encoding, plain_video, reencoded, scene, tune, with_cuts, write_video

from avpref.config.data_settings import ClipPrompts
from avpref.datasets.prompts.clips import prompts
from avpref.media.geometry import ClipShape
from avpref.media.reading import probe, read_clip
from avpref.pool.funnel import funnel
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import CLIPS, DECISIONS, MEASURES, RECORDINGS, SOURCES, WRITTEN
from avpref.storage.event_log import read_events

MOTION = "filter.filters=[{name: motion, measure: flow_px, min: 1.0}, {name: silent, measure: silent_share, max: 0.5}]"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Seven files: two scenes in one, a copy, a re-encoding, a still one, a silent one, a broken one, and one without sound."""
    folder = tmp_path / "videos"
    folder.mkdir()
    with_cuts(folder / "scenes.mp4", [60, 80], seed=10)
    (folder / "scenes.txt").write_text("two patterns move")
    plain_video(folder / "plain.mp4", 20)
    shutil.copy(folder / "plain.mp4", folder / "copy.mp4")
    reencoded(folder / "small.mp4", 20)
    write_video(folder / "still.mp4", scene(30, 1).repeat(75, 0), tune(30, 3.0))
    write_video(folder / "silent.mp4", scene(31, 75), np.zeros(48_000, np.float32))
    write_video(folder / "mute.mp4", scene(32, 75), None)
    (folder / "broken.mp4").write_bytes((folder / "plain.mp4").read_bytes()[:4000])
    return folder


def rows(pool: PoolFolder, name: str) -> list[dict[str, str]]:
    with open(pool.root / name, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def made(pool: PoolFolder) -> dict[str, int]:
    """Items computed by the last execution of each stage."""
    counts: dict[str, int] = {}
    for event, _ in read_events(pool.root / "events.jsonl"):
        if event["event"] == "stage_items":
            counts[event["stage"]] = event["made"]
    return counts


def test_every_file_is_in_the_result_or_in_the_list_of_what_is_lost(videos: Path, build_pool: BuildPool) -> None:
    pool = build_pool(videos, sets=(MOTION, "write.text=a pattern"))
    lost = {Path(row["uri"]).name: row for row in rows(pool, "lost.csv")}
    assert set(lost) - {"copy.mp4", "plain.mp4"} == {"small.mp4", "still.mp4", "silent.mp4", "mute.mp4", "broken.mp4"}
    assert len(set(lost) & {"copy.mp4", "plain.mp4"}) == 1
    reasons = {name: (row["stage"], row["reason"]) for name, row in lost.items()}
    same_bytes = reasons.get("copy.mp4") or reasons["plain.mp4"]
    assert same_bytes[0] == "scan" and "same bytes" in same_bytes[1]
    assert "same recording" in reasons["small.mp4"][1]
    assert reasons["mute.mp4"] == ("scan", "no sound") and reasons["broken.mp4"][0] == "scan"
    assert reasons["still.mp4"][0] == "filter" and reasons["still.mp4"][1].startswith("motion: flow_px")
    assert reasons["silent.mp4"][1].startswith("silent: silent_share 1, more than 0.5")
    listed = rows(pool, "clips.csv")
    assert sorted(row["text"] for row in listed) == ["a pattern", "two patterns move", "two patterns move"]
    by_text: dict[str, set[str]] = {}
    for row in listed:
        by_text.setdefault(row["text"], set()).add(row["group"])
    assert all(len(groups) == 1 for groups in by_text.values()) and len({row["group"] for row in listed}) == 2
    table = pq.read_table(pool.root / "clips.parquet")
    assert table.num_rows == 3 and {"flow_px", "loudness_lufs", "uri", "start_s"} <= set(table.column_names)


def test_written_clips_are_exact_and_can_be_imported(videos: Path, build_pool: BuildPool) -> None:
    pool = build_pool(videos / "scenes.mp4", plain_video(videos / "other.mp4", 40), sets=("write.text=x",))
    clips = [row for row in pool.tables.read(CLIPS).to_pylist() if Path(source_uri(pool, row)).name == "scenes.mp4"]
    assert [(row["first_frame"], row["end_frame"]) for row in clips] == [(0, 60), (60, 140)]
    written = {row["clip_id"]: row for row in pool.tables.read(WRITTEN).to_pylist()}
    whole = read_clip(videos / "scenes.mp4")
    assert whole.frames is not None and whole.audio is not None
    for clip in clips:
        row = written[clip["clip_id"]]
        assert (row["num_frames"], row["fps_hz"]) == (clip["end_frame"] - clip["first_frame"], 25.0)
        copy = read_clip(pool.root / row["path"])
        assert copy.frames is not None and copy.audio is not None
        part = whole.frames[clip["first_frame"] : clip["end_frame"]]
        errors = [np.abs(copy.frames.astype(int) - np.roll(part, shift, 0)).mean() for shift in (-1, 0, 1)]
        assert errors[1] < 3.0 and errors[1] == min(errors)
        start = round(clip["start_s"] * 16_000)
        sound = whole.audio[start : start + len(copy.audio)]
        assert np.corrcoef(sound, copy.audio[: len(sound)])[0, 1] > 0.95
    settings = ClipPrompts(clips=str(pool.root / "clips.csv"), held_out_share=0.5, num_evaluation_clips=2)
    found, refused = prompts(settings, [ClipShape(25, 64, 64, 12.5, 16_000)], 0)
    assert found and not refused


def source_uri(pool: PoolFolder, clip: dict[str, Any]) -> str:
    uris = {row["source_id"]: row["uri"] for row in pool.tables.read(SOURCES).to_pylist()}
    return str(uris[clip["source_id"]])


def test_a_threshold_recomputes_nothing_and_new_files_alone_are_scanned(videos: Path, build_pool: BuildPool) -> None:
    pool = build_pool(videos)
    before = {table.name: pool.tables.require(table).version for table in (SOURCES, CLIPS, MEASURES)}
    assert {row["is_kept"] for row in pool.tables.read(DECISIONS).to_pylist()} == {True}
    stricter = build_pool(videos, sets=(MOTION,), until="filter")
    after = {table.name: stricter.tables.require(table).version for table in (SOURCES, CLIPS, MEASURES)}
    counts = made(stricter)
    assert before == after and [counts[name] for name in ("scan", "cut", "measure")] == [0, 0, 0]
    assert [row["is_kept"] for row in stricter.tables.read(DECISIONS).to_pylist()].count(False) == 2
    plain_video(videos / "new.mp4", 50)
    again = build_pool(videos, sets=(MOTION,))
    counts = made(again)
    assert counts["scan"] == 1 and counts["measure"] == 3 and counts["write"] == 1


@pytest.mark.slow
def test_other_cuts_decode_nothing_and_measure_new_ranges_alone(videos: Path, build_pool: BuildPool) -> None:
    build_pool(videos / "scenes.mp4", until="measure")
    pool = build_pool(videos / "scenes.mp4", sets=("cut.detector=none",), until="measure")
    assert made(pool)["scan"] == 0 and made(pool)["measure"] == 3
    back = build_pool(videos / "scenes.mp4", until="measure")
    assert made(back)["measure"] == 0 and back.tables.num_rows(CLIPS) == 2


def test_the_funnel_counts_each_step_and_each_filter_alone(videos: Path, build_pool: BuildPool) -> None:
    pool = build_pool(videos, sets=(MOTION,))
    counted = funnel(pool)
    steps = {step.step: step.items for step in counted.steps}
    assert steps == {
        **{"listed": 8, "readable": 6, "distinct": 4, "clips": 5, "measured": 5},
        **{"after motion": 4, "after silent": 3, "kept": 3, "written": 3},
    }
    assert [(effect.filter, effect.removed, effect.alone, effect.only) for effect in counted.filters] == [
        ("motion", 1, 1, 1),
        ("silent", 1, 1, 1),
    ]
    hours = {step.step: step.hours for step in counted.steps}
    assert hours["kept"] == pytest.approx((140 / FPS_HZ + 3.0) / 3600, rel=0.01)


@pytest.mark.slow
def test_quantiles_quotas_and_diversity_work_from_kept_measures(videos: Path, build_pool: BuildPool) -> None:
    half = "filter.filters=[{measure: flow_px, min_quantile: 0.5}]"
    pool = build_pool(videos, sets=(half,), until="filter")
    kept = [row["is_kept"] for row in pool.tables.read(DECISIONS).to_pylist()]
    assert kept.count(True) == 3 and len(kept) == 5
    quota = build_pool(
        videos, sets=("filter.quota={by: taxonomy, max_clips: 2}", "filter.prefer=flow_px"), until="filter"
    )
    decisions = quota.tables.read(DECISIONS).to_pylist()
    assert [row["filter"] for row in decisions].count("quota") == 3
    diverse = build_pool(videos, sets=("filter.diversity={min_distance: 1.9}",), until="filter")
    assert [row["is_kept"] for row in diverse.tables.read(DECISIONS).to_pylist()].count(True) == 1
    clusters = build_pool(videos, sets=("filter.quota={by: clusters, num_clusters: 2, max_clips: 1}",), until="filter")
    rows_of = clusters.tables.read(DECISIONS).to_pylist()
    assert len({row["category"] for row in rows_of}) == 2, rows_of
    assert [row["is_kept"] for row in rows_of].count(True) == 2, rows_of


@pytest.mark.slow
def test_variable_rates_become_constant_and_turned_pictures_upright(tmp_path: Path, build_pool: BuildPool) -> None:
    ticks = np.cumsum([0] + [20, 60] * 40)[:75].tolist()
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "varying.mkv", scene(1, 75), tune(1, 3.0), Encoding(ticks=ticks))
    write_video(tmp_path / "in" / "turned.mp4", scene(2, 75), tune(2, 3.0), Encoding(rotation_deg=90))
    pool = build_pool(tmp_path / "in", sets=("write.fps_hz=12.5",))
    facts = {Path(row["uri"]).name: row for row in pool.tables.read(SOURCES).to_pylist()}
    assert facts["varying.mkv"]["is_variable_rate"] and not facts["turned.mp4"]["is_variable_rate"]
    assert facts["turned.mp4"]["rotation_deg"] == 90
    sizes = set()
    for row in pool.tables.read(WRITTEN).to_pylist():
        info = probe(pool.root / row["path"])
        assert info.video is not None and info.video.rotation_deg == 0 and info.video.fps_hz == 12.5
        sizes.add((info.video.height_px, info.video.width_px))
    assert sizes == {(72, 128), (128, 72)}


def test_sources_of_one_group_of_a_list_stay_together(tmp_path: Path, build_pool: BuildPool) -> None:
    for number in range(3):
        plain_video(tmp_path / f"{number}.mp4", 60 + number)
    (tmp_path / "list.csv").write_text("file,text,group\n0.mp4,a,day\n1.mp4,b,day\n2.mp4,c,\n")
    pool = build_pool(tmp_path / "list.csv", until="scan")
    groups = {row["group_id"] for row in pool.tables.read(RECORDINGS).to_pylist()}
    assert len(groups) == 2
