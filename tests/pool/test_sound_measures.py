"""Loudness against values of the recommendation, and clipping, silence and band width on sounds of known truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from avpref.domain import ScoreStatus
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.writing import encode_clip
from avpref.pool.measure.loudness import integrated_lufs
from avpref.pool.measure.sound_measures import SoundMeasures, bandwidth_hz, clipped_share, silent_share
from avpref.rewards.protocol import ScorableClip


def sine(level_db: float, seconds: float, rate_hz: int = 48_000, pitch_hz: float = 997.0) -> NDArray[np.float32]:
    times_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (10 ** (level_db / 20) * np.sin(2 * np.pi * pitch_hz * times_s)).astype(np.float32)


def noise(seconds: float, rate_hz: int = 16_000, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_a_sine_of_997_hz_at_full_scale_in_one_channel_is_at_minus_3_01_lufs(rate_hz: int) -> None:
    assert integrated_lufs(sine(0.0, 3.0, rate_hz)[None], rate_hz) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(-23.0, 20)], -23.0),
        ([(-33.0, 20)], -33.0),
        ([(-36.0, 10), (-23.0, 60), (-36.0, 10)], -23.0),
        ([(-72.0, 10), (-36.0, 10), (-23.0, 60), (-36.0, 10), (-72.0, 10)], -23.0),
    ],
)
def test_the_programmes_of_ebu_tech_3341_have_their_loudness(parts: list[tuple[float, int]], expected: float) -> None:
    """Cases 1 to 4: stereo sines of 1 kHz, whose levels are those of each channel; shortened to a quarter."""
    rate_hz = 8_000
    sound = np.concatenate([sine(level, seconds / 4, rate_hz, 1000.0) for level, seconds in parts])
    assert integrated_lufs(np.stack([sound, sound]), rate_hz) == pytest.approx(expected, abs=0.15)


def test_silence_and_short_sound_have_no_loudness_and_low_frequencies_no_weight() -> None:
    assert integrated_lufs(np.zeros((1, 48_000), np.float32), 48_000) is None
    assert integrated_lufs(sine(0.0, 0.3)[None], 48_000) is None
    five_one = np.zeros((6, 48_000), np.float32)
    five_one[3] = sine(0.0, 1.0)
    assert integrated_lufs(five_one, 48_000) is None
    five_one[4] = sine(0.0, 1.0)
    assert integrated_lufs(five_one, 48_000) == pytest.approx(-3.01 + 1.49, abs=0.05)


def test_clipped_sound_is_told_from_loud_sound() -> None:
    for loud in (sine(-0.5, 1.0), sine(0.0, 1.0)):
        clipped = np.clip(4 * loud, -1.0, 1.0)
        assert clipped_share(loud) == 0.0 and clipped_share(clipped) > 0.7


def test_clipping_is_seen_through_a_lossy_code(tmp_path: Path) -> None:
    seconds = np.arange(3 * 16_000) / 16_000
    low = np.convolve(noise(3.0), np.ones(8), "same")
    loud = (low * (1 + np.sin(6 * seconds))).astype(np.float32)
    loud *= 0.95 / np.abs(loud).max()
    frames = np.zeros((24, 32, 32, 3), np.uint8)

    def coded(sound: NDArray[np.float32]) -> NDArray[np.float32]:
        path = tmp_path / "coded.mp4"
        path.write_bytes(encode_clip(frames, 8.0, sound, 16_000))
        audio = read_clip(path).audio
        assert audio is not None
        return audio

    assert clipped_share(coded(loud)) < 0.001
    assert clipped_share(coded(np.clip(12 * loud, -1.0, 1.0))) > 0.02


def test_the_share_of_silence_is_that_of_its_time() -> None:
    sound = noise(4.0)
    sound[16_000:48_000] = 0.0
    assert silent_share(sound, 16_000) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("limit_hz", [1000.0, 3000.0, 6000.0])
def test_the_band_width_of_low_passed_noise_is_its_limit(limit_hz: float) -> None:
    sound = noise(3.0)
    spectrum = np.fft.rfft(sound)
    spectrum[np.fft.rfftfreq(len(sound), 1 / 16_000) > limit_hz] = 0
    measured = bandwidth_hz(np.fft.irfft(spectrum).astype(np.float32), 16_000)
    assert measured == pytest.approx(limit_hz, abs=250.0)
    assert bandwidth_hz(sound, 16_000) == 8000.0 and bandwidth_hz(np.zeros(16_000, np.float32), 16_000) is None


def test_a_clip_without_sound_is_skipped_and_silence_is_measured() -> None:
    mute = DecodedClip(None, 0.0, None, 0, 2.0)
    silent = DecodedClip(None, 0.0, np.zeros(32_000, np.float32), 16_000, 2.0)
    without, quiet = SoundMeasures().score([ScorableClip("a", "", mute), ScorableClip("b", "", silent)])
    assert {score.status for score in without} == {ScoreStatus.SKIPPED}
    values = {score.metric: score.value for score in quiet}
    assert values["silent_share"] == 1.0 and values["loudness_lufs"] is None and values["peak_db"] == -120.0
