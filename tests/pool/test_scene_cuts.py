"""Cuts from kept changes, and ranges of clips."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pool_clips import with_cuts

from avpref.config.pool.pool_settings import CutSettings
from avpref.media.reading_rules import DEFAULT_READING
from avpref.pool.cut.clip_ranges import FrameRange, Timeline, clip_ranges
from avpref.pool.cut.scene_cuts import Changes, adaptive_ratios, cuts_after, cuts_of, spaced
from avpref.pool.scan.source_profile import profile


def changes(content: list[float], matches: list[float] | None = None) -> Changes:
    values = np.array(content)
    return Changes(values, values, values, np.ones(len(values)) if matches is None else np.array(matches))


def test_the_ratio_compares_a_frame_with_the_two_on_either_side() -> None:
    ratios = adaptive_ratios(np.array([0.0, 2.0, 4.0, 40.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 20.0, 0.0, 0.0]))
    assert ratios[3] == pytest.approx(40.0 / ((2 + 4 + 2 + 2) / 4))
    assert ratios[10] == 255.0 and ratios[:2].tolist() == [0.0, 0.0] and ratios[-2:].tolist() == [0.0, 0.0]
    assert adaptive_ratios(np.zeros(4)).tolist() == [0.0] * 4


def test_steady_motion_is_no_cut_of_the_adaptive_detector_and_a_jump_out_of_it_is() -> None:
    steady = [0.0] + [30.0] * 60
    assert cuts_of("adaptive", changes(steady), 3.0, 15) == []
    assert len(cuts_of("content", changes(steady), 27.0, 15)) > 0
    steady[40] = 110.0
    assert cuts_of("adaptive", changes(steady), 3.0, 15) == [40]


def test_histograms_decide_by_their_correlation() -> None:
    matches = [1.0] * 30
    matches[20] = 0.7
    assert cuts_of("histogram", changes([0.0] * 30, matches), 0.25, 15) == [20]
    assert cuts_of("histogram", changes([0.0] * 30, matches), 0.4, 15) == []
    assert cuts_of("none", changes([99.0] * 30), 1.0, 1) == []


def test_cuts_are_those_of_the_package(tmp_path: Path) -> None:
    """On videos whose scenes have other colours; the packages convert pictures differently, so values differ a little."""
    scenedetect = pytest.importorskip("scenedetect", reason="PySceneDetect is not installed; it is no dependency")
    detectors = {"adaptive": (scenedetect.AdaptiveDetector, 3.0), "content": (scenedetect.ContentDetector, 27.0)}
    detectors["histogram"] = (scenedetect.HistogramDetector, 0.2)
    path = with_cuts(tmp_path / "cuts.mp4", [49, 57, 12, 60], seed=40)
    profiled = profile(path, DEFAULT_READING)
    values = (profiled.changes.hue, profiled.changes.saturation, profiled.changes.luma, profiled.changes.matches)
    for name, (detector, threshold) in detectors.items():
        scenes = scenedetect.detect(str(path), detector(min_scene_len=15))
        own = cuts_of(name, Changes(*(np.array(part) for part in values)), threshold, 15)
        assert own == [start.frame_num for start, _ in scenes[1:]]


def test_cuts_keep_their_distance() -> None:
    assert spaced(np.array([5, 15, 20, 31, 100]), 15) == [15, 31, 100]


def test_a_transition_ends_before_the_frame_that_begins_a_scene() -> None:
    values = np.zeros(100)
    values[49] = 0.9
    values[70:75] = 0.8
    values[99] = 0.9
    assert cuts_after(values, 0.5, 15) == [50, 75]


TIMES = np.arange(500) / 25.0
WHOLE = Timeline(TIMES, 20.0)


def kept(ranges: list[FrameRange]) -> list[tuple[int, int]]:
    return [(entry.first, entry.end) for entry in ranges if not entry.reason]


def test_scenes_become_clips_and_short_ones_are_kept_with_the_reason() -> None:
    ranges = clip_ranges(WHOLE, [100, 120], CutSettings())
    assert kept(ranges) == [(0, 100), (120, 500)]
    assert [entry.reason for entry in ranges if entry.reason] == ["0.800 s, shorter than 2 s"]
    assert ranges[0].end_s == 4.0 and ranges[2].start_s == pytest.approx(4.8)


def test_long_scenes_are_divided_equally_and_every_frame_is_in_one_part() -> None:
    ranges = clip_ranges(WHOLE, [], CutSettings(max_s=6.0))
    assert len(ranges) == 4 and not [entry for entry in ranges if entry.end_s - entry.start_s > 6.0]
    assert [entry.first for entry in ranges[1:]] == [entry.end for entry in ranges[:-1]]
    assert (ranges[0].first, ranges[-1].end) == (0, 500)


def test_strides_overlap_as_asked_and_end_with_the_scene() -> None:
    ranges = clip_ranges(WHOLE, [], CutSettings(clips="stride", max_s=5.0, stride_s=4.0))
    assert kept(ranges) == [(0, 125), (100, 225), (200, 325), (300, 425), (400, 500)]


def test_clips_have_both_tracks() -> None:
    timeline = Timeline(TIMES, 20.0, sound_start_s=3.0, sound_end_s=15.5)
    ranges = clip_ranges(timeline, [250], CutSettings())
    assert kept(ranges) == [(75, 250), (250, 387)]
    assert [entry.reason for entry in ranges if entry.reason] == ["the recording has no sound here"] * 2
    covered = sorted(frame for entry in ranges for frame in range(entry.first, entry.end))
    assert covered == list(range(500))


def test_margins_are_left_out_at_cuts_alone() -> None:
    assert kept(clip_ranges(WHOLE, [250], CutSettings(margin_frames=3))) == [(0, 247), (253, 500)]


def test_times_of_a_variable_rate_are_those_of_its_frames() -> None:
    times = np.cumsum(np.tile([0.02, 0.06], 100)) - 0.02
    timeline = Timeline(times, float(times[-1]) + 0.06, 0.0, math.inf)
    (first, second) = clip_ranges(timeline, [101], CutSettings())
    assert first.end_s == second.start_s == times[101] and second.end == 200


def test_the_published_thresholds_are_the_defaults() -> None:
    assert [CutSettings(detector=name).cut_threshold for name in ("adaptive", "content", "histogram")] == [
        3.0,
        27.0,
        0.2,
    ]
