"""Onset strength and detection against librosa's numbers, and against what they mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from avpref.media.sound.mel_filters import hz_to_mel, mel_to_hz
from avpref.rewards.signals.onsets import (
    HOP_SAMPLES,
    detect_onsets,
    mel_filters,
    mel_power,
    onset_strength,
    peak_frames,
)

CLICK_S = 0.004


def clicks(times_s: list[float], rate_hz: int, duration_s: float = 3.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    audio = generator.normal(0.0, 1e-4, round(duration_s * rate_hz))
    for time_s in times_s:
        start, count = round(time_s * rate_hz), round(CLICK_S * rate_hz)
        audio[start : start + count] += generator.normal(0.0, 0.5, count)
    return audio.astype(np.float32)


def golden_synthetic(golden: Path) -> list[tuple[str, int, np.ndarray]]:
    vectors = np.load(golden / "javisbench" / "av_align.npz")
    cases = json.loads((golden / "javisbench" / "av_align.json").read_text())["clips_and_synthetic"]
    return [
        (case["case"], case["audio_rate"], vectors[f"{case['case']}_audio"])
        for case in cases
        if f"{case['case']}_audio" in vectors.files
    ]


@pytest.mark.golden
def test_strength_frames_and_times_are_librosas(golden):
    vectors = np.load(golden / "javisbench" / "av_align.npz")
    cases = golden_synthetic(golden)
    assert cases
    for name, rate_hz, audio in cases:
        onsets = detect_onsets(audio, rate_hz)
        np.testing.assert_allclose(onsets.strength, vectors[f"{name}_onset_env"], rtol=0, atol=1e-3, err_msg=name)
        np.testing.assert_array_equal(onsets.frames, vectors[f"{name}_onset_frames"], err_msg=name)
        np.testing.assert_allclose(onsets.times_s, vectors[f"{name}_onset_times"], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.golden
def test_detection_from_stored_strength(golden):
    vectors = np.load(golden / "javisbench" / "av_align.npz")
    cases = json.loads((golden / "javisbench" / "av_align.json").read_text())["clips_and_synthetic"]
    for case in cases:
        name = case["case"]
        frames = peak_frames(vectors[f"{name}_onset_env"], case["audio_rate"])
        np.testing.assert_array_equal(frames, vectors[f"{name}_onset_frames"], err_msg=name)
        assert len(frames) == case["n_audio_peaks"]


def test_mel_scale_inverts_and_is_linear_below_1_khz():
    hz = np.array([0.0, 200.0, 1000.0, 1001.0, 6400.0, 22050.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz, atol=1e-9)
    np.testing.assert_allclose(hz_to_mel(np.array([200.0, 1000.0, 6400.0])), [3.0, 15.0, 42.0])


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_filters_are_flat_for_white_noise(rate_hz):
    wide = mel_filters(rate_hz)[96:]  # bands wider than a bin: each has area one
    np.testing.assert_allclose(wide.sum(axis=1) * rate_hz / 2048, 1.0, rtol=0.1)


@pytest.mark.parametrize("rate_hz", [16000, 22050, 44100, 48000])
def test_clicks_are_found_where_they_are(rate_hz):
    times_s = [0.5, 1.1, 1.9, 2.4]
    found = detect_onsets(clicks(times_s, rate_hz), rate_hz).times_s
    for time_s in times_s:
        assert np.abs(found - time_s).min() <= 2 * HOP_SAMPLES / rate_hz
    assert all(np.abs(np.array(times_s) - time_s).min() <= 3 * HOP_SAMPLES / rate_hz for time_s in found)


def test_at_16_khz_a_click_is_reported_more_than_once_and_at_22_khz_once():
    times_s = [0.5, 1.1, 1.9, 2.4]
    assert len(detect_onsets(clicks(times_s, 16000), 16000).frames) > len(times_s)
    assert len(detect_onsets(clicks(times_s, 22050), 22050).frames) == len(times_s)


def test_louder_is_the_same_onsets():
    audio = clicks([0.5, 1.1], 16000)
    np.testing.assert_array_equal(detect_onsets(audio, 16000).frames, detect_onsets(4 * audio, 16000).frames)


@pytest.mark.parametrize("audio", [np.zeros(16000, np.float32), np.zeros(1, np.float32)], ids=["silence", "one sample"])
def test_silence_has_no_onsets(audio):
    onsets = detect_onsets(audio, 16000)
    assert len(onsets.frames) == len(onsets.times_s) == 0
    assert len(onsets.strength) == 1 + len(audio) // HOP_SAMPLES
    assert not onsets.strength.any()


@pytest.mark.parametrize(
    "audio",
    [np.zeros(0, np.float32), np.zeros((2, 100), np.float32), np.full(100, np.nan, np.float32)],
    ids=["empty", "two channels", "nan"],
)
def test_what_is_not_one_finite_channel_is_refused(audio):
    with pytest.raises(ValueError, match="one channel of finite samples"):
        mel_power(audio, 16000)


def test_strength_is_per_512_samples_from_the_start():
    audio = clicks([1.0], 16000)
    strength = onset_strength(audio, 16000)
    assert strength.shape == (1 + len(audio) // HOP_SAMPLES,)
    assert np.all(strength >= 0)
    assert not strength[:3].any()
