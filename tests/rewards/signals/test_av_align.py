"""AV-Align against the published numbers; the bounded score and the lag against their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from avpref.identity import file_sha256
from avpref.rewards.signals.av_align import (
    Alignment,
    Lag,
    best_lag,
    bounded_alignment,
    merge_duplicates,
    motion_curve,
    published_alignment,
    sound_curve,
    video_peaks_s,
    zero_lag_cosine,
)
from avpref.rewards.signals.motion import (
    fastest_share_px,
    flow_fields,
    grey_frames,
    motion_px,
    small_flow,
)
from avpref.rewards.signals.onsets import detect_onsets, onset_strength

# Moments on a grid of 1/64 s: distances and windows are exact in floating point, so orders cannot flip at ties.
MOMENTS = st.lists(st.integers(0, 256), max_size=12).map(lambda ticks: np.array(sorted(ticks), np.float64) / 64)
RATES = st.sampled_from([4.0, 8.0, 16.0, 32.0])


def cases(golden: Path) -> dict:
    return json.loads((golden / "javisbench" / "av_align.json").read_text())


def vectors(golden: Path) -> np.lib.npyio.NpzFile:
    return np.load(golden / "javisbench" / "av_align.npz")


def first_seconds(path: Path, num_frames: int, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The first decoded frames (RGB) and samples (first channel), in decode order, as the vectors were made."""
    with av.open(str(path)) as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == num_frames:
                break
    with av.open(str(path)) as container:
        audio = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return np.stack(frames), audio[:num_samples].astype(np.float32)


def published_score(frames: np.ndarray, fps_hz: float, audio: np.ndarray, rate_hz: float) -> Alignment:
    """The published score of RGB frames [T, H, W, 3] and a waveform [S]."""
    return published_alignment(detect_onsets(audio, rate_hz).times_s, video_peaks_s(motion_px(frames), fps_hz), fps_hz)


def bounded_score(frames: np.ndarray, fps_hz: float, audio: np.ndarray, rate_hz: float) -> Alignment:
    onsets = merge_duplicates(detect_onsets(audio, rate_hz), rate_hz)
    return bounded_alignment(onsets, video_peaks_s(motion_px(frames), fps_hz), fps_hz)


def measured_lag(frames: np.ndarray, fps_hz: float, audio: np.ndarray, rate_hz: float) -> Lag:
    duration_s = len(frames) / fps_hz
    sound = sound_curve(onset_strength(audio, rate_hz), rate_hz, duration_s)
    picture = motion_curve(fastest_share_px(small_flow(frames)), fps_hz, duration_s)
    assert sound is not None and picture is not None
    return best_lag(sound, picture)


@pytest.mark.golden
def test_published_score_of_stored_peaks(golden):
    stored = vectors(golden)
    for case in cases(golden)["clips_and_synthetic"]:
        name = case["case"]
        video = stored[f"{name if 'clip' in case else 'synthetic'}_video_peaks"]
        found = published_alignment(stored[f"{name}_onset_times"], video, case["fps"])
        assert (found.num_audio_peaks, found.num_video_peaks) == (case["n_audio_peaks"], case["n_video_peaks"])
        assert found.hits == case["hits"]
        assert found.score == pytest.approx(case["score"], abs=1e-9)


@pytest.mark.golden
def test_published_score_of_the_synthetic_clips(golden):
    stored = vectors(golden)
    for case in cases(golden)["clips_and_synthetic"]:
        if "clip" not in case:
            audio = stored[f"{case['case']}_audio"]
            found = published_score(stored["synthetic_frames_u8"], case["fps"], audio, case["audio_rate"])
            assert found.hits == case["hits"]
            assert found.score == pytest.approx(case["score"], abs=1e-9)


@pytest.mark.golden
def test_flow_of_the_synthetic_clip(golden):
    stored = vectors(golden)
    motion = motion_px(stored["synthetic_frames_u8"])
    np.testing.assert_allclose(motion, stored["synthetic_flow"], rtol=0, atol=1e-5)
    fields = flow_fields(grey_frames(stored["synthetic_frames_u8"]))
    magnitudes = np.hypot(fields[..., 0], fields[..., 1]).mean(axis=(1, 2)).astype(np.float64)
    np.testing.assert_array_equal(motion, [magnitudes[0], *magnitudes])
    fps_hz = cases(golden)["synthetic"]["fps"]
    np.testing.assert_allclose(video_peaks_s(motion, fps_hz), stored["synthetic_video_peaks"], rtol=0, atol=1e-9)


@pytest.mark.golden
def test_real_clips(golden, media):
    stored, described = vectors(golden), json.loads((golden / "javisbench" / "clips.json").read_text())
    sha256 = {clip["file"]: clip["sha256"] for clip in described}
    content = cases(golden)
    real = [case for case in content["clips_and_synthetic"] if "clip" in case]
    assert real
    for index, case in enumerate(real):
        path, name = media / case["clip"], case["case"]
        if not path.exists() or file_sha256(path) != sha256[case["clip"]]:
            pytest.skip(f"{case['clip']} is absent or another file")
        frames, audio = first_seconds(path, case["frames"], case["audio_samples"])
        if index == 0:
            grey = grey_frames(frames[content["gray_frames"]])
            np.testing.assert_array_equal(grey, stored[f"{name}_gray_u8"])
        onsets = detect_onsets(audio, case["audio_rate"])
        np.testing.assert_allclose(onsets.strength, stored[f"{name}_onset_env"], rtol=0, atol=1e-3)
        np.testing.assert_array_equal(onsets.frames, stored[f"{name}_onset_frames"])
        motion = motion_px(frames)
        np.testing.assert_allclose(motion, stored[f"{name}_flow"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(video_peaks_s(motion, case["fps"]), stored[f"{name}_video_peaks"], rtol=0, atol=1e-9)
        found = published_alignment(onsets.times_s, video_peaks_s(motion, case["fps"]), case["fps"])
        assert (found.hits, found.score) == (case["hits"], pytest.approx(case["score"], abs=1e-9))


@pytest.mark.golden
def test_intersection_over_union_cases(golden):
    for case in cases(golden)["iou_cases"]:
        found = published_alignment(np.array(case["audio_peaks"]), np.array(case["video_peaks"]), case["fps"])
        assert found.hits == case["hits"]
        assert found.score == pytest.approx(case["score"], abs=1e-9)


@pytest.mark.golden
def test_local_maximum_cases(golden):
    for case in cases(golden)["local_max_cases"]:
        found = video_peaks_s(np.array(case["values"], np.float64), case["fps"])
        np.testing.assert_allclose(found, case["peaks"], rtol=0, atol=1e-9)


@given(audio=MOMENTS, video=MOMENTS, fps_hz=RATES)
def test_bounded_score_is_the_largest_matching(audio, video, fps_hz):
    found = bounded_alignment(audio, video, fps_hz)
    may_match = np.abs(audio[:, None] - video[None, :]) < 1.0 / fps_hz
    largest = int((maximum_bipartite_matching(csr_array(may_match)) >= 0).sum()) if may_match.any() else 0
    assert found.hits == largest
    assert 0.0 <= found.score <= 1.0


@given(audio=MOMENTS, video=MOMENTS, fps_hz=RATES)
def test_bounded_score_is_symmetric_and_never_more_hits_than_published(audio, video, fps_hz):
    assert bounded_alignment(audio, video, fps_hz).score == bounded_alignment(video, audio, fps_hz).score
    assert bounded_alignment(audio, video, fps_hz).hits <= published_alignment(audio, video, fps_hz).hits


@given(moments=MOMENTS, fps_hz=RATES)
def test_equal_moments_score_one(moments, fps_hz):
    assert bounded_alignment(moments, moments, fps_hz).score == (1.0 if len(moments) else 0.0)


@pytest.mark.golden
def test_duplicates_lift_the_published_score_but_not_the_bounded_one(golden):
    stored = vectors(golden)
    frames, content = stored["synthetic_frames_u8"], cases(golden)
    audio = stored["synthetic_aligned_audio"]
    case = next(case for case in content["clips_and_synthetic"] if case["case"] == "synthetic_aligned")
    onsets = detect_onsets(audio, case["audio_rate"])
    assert len(merge_duplicates(onsets, case["audio_rate"])) <= len(onsets.times_s)
    aligned = bounded_score(frames, case["fps"], audio, case["audio_rate"]).score
    shifted = bounded_score(frames, case["fps"], stored["synthetic_shifted_audio"], case["audio_rate"]).score
    assert shifted < aligned <= 1
    assert published_score(frames, case["fps"], audio, case["audio_rate"]).score >= aligned - 1e-6


def test_merging_keeps_the_strongest_of_neighbouring_onsets_and_all_distant_ones():
    strength = np.array([0, 1, 3, 2, 0, 0, 5, 0], np.float32)
    onsets = detect_onsets(np.zeros(8 * 512 - 1, np.float32), 16000)
    onsets = type(onsets)(np.array([1, 2, 3, 6]), np.array([1, 2, 3, 6]) * 0.032, strength)
    np.testing.assert_allclose(merge_duplicates(onsets, 16000), [2 * 0.032, 6 * 0.032])


@pytest.mark.golden
@pytest.mark.parametrize("case", ["aligned", "shifted", "aligned_other_rate"])
def test_lag_of_the_synthetic_clips(golden, case):
    stored, content = vectors(golden), cases(golden)
    described = next(row for row in content["clips_and_synthetic"] if row["case"] == f"synthetic_{case}")
    audio = stored[f"synthetic_{case}_audio"]
    lag = measured_lag(stored["synthetic_frames_u8"], described["fps"], audio, described["audio_rate"])
    expected_s = content["synthetic"]["shift_s"] if case == "shifted" else 0.0
    assert lag.lag_s == pytest.approx(expected_s, abs=1.0 / described["fps"])
    assert lag.correlation > 0.5


@given(shift=st.integers(-40, 40), seed=st.integers(0, 2**32 - 1))
def test_lag_of_a_shifted_curve_is_its_shift(shift, seed):
    bump = np.exp(-0.5 * ((np.arange(300) - 150 - np.random.default_rng(seed).uniform(-20, 20)) / 6.0) ** 2)
    picture = (bump - bump.mean()) / np.linalg.norm(bump - bump.mean())
    found = best_lag(np.roll(picture, shift), picture)
    assert found.lag_s == pytest.approx(shift / 100, abs=1e-3)
    assert -1 - 1e-9 <= zero_lag_cosine(np.roll(picture, shift), picture) <= found.correlation + 1e-9


def test_lag_is_at_most_a_third_of_the_clip_and_constant_curves_have_none():
    still = np.full((16, 64, 64, 3), 90, np.uint8)
    assert motion_curve(fastest_share_px(small_flow(still)), 8.0, 2.0) is None
    assert motion_curve(np.full(15, 0.4), 8.0, 2.0) is None
    assert sound_curve(np.zeros(63, np.float32), 16000, 2.0) is None
    curve = motion_curve(np.array([0.0, 9.0] + [0.0] * 13), 8.0, 2.0)
    late = motion_curve(np.array([0.0] * 13 + [9.0, 0.0]), 8.0, 2.0)
    assert curve is not None and late is not None
    assert abs(best_lag(late, curve).lag_s) <= 2.0 / 3


def test_fewer_than_two_frames_are_refused():
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="two frames"):
        motion_px(frames)
    with pytest.raises(ValueError, match="two frames"):
        small_flow(frames)


def test_fastest_tenth_measures_the_motion_of_a_small_object():
    frames = np.full((6, 64, 64, 3), 40, np.uint8)
    texture = np.random.default_rng(1).integers(0, 255, (12, 12, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[20:32, 10 + 3 * index : 22 + 3 * index] = texture
    flow = small_flow(frames)
    assert flow.shape == (5, 32, 32, 2)
    overall = np.hypot(flow[..., 0], flow[..., 1]).mean(axis=(1, 2))
    fastest = fastest_share_px(flow)
    np.testing.assert_allclose(fastest, 1.5, atol=0.15)
    assert np.all(fastest > 1.5 * overall)
