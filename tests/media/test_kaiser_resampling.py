"""The resampler of published JavisBench numbers, against its vectors and against signals whose result is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from avpref.media.sound.kaiser_resampling import kaiser_best
from avpref.media.spectra import resample


def stereo(golden: Path) -> np.ndarray:
    """[2, S] at 44.1 kHz."""
    return np.load(golden / "evaluation" / "media.npz")["audio44k_stereo"].astype(np.float32) / 32768


@pytest.mark.golden
@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_javisbench_reads_sound_like_its_vectors(golden: Path, rate_hz: int) -> None:
    expected = np.load(golden / "evaluation" / "loader" / "io.npz")[f"javisbench_{rate_hz // 1000}k"]
    own = kaiser_best(stereo(golden).mean(0), 44100, rate_hz)
    assert own.shape == expected.shape and np.abs(own - expected).max() <= 1e-5


@pytest.mark.golden
@pytest.mark.parametrize(("rate_hz", "length_s"), [(16000, 1.0), (32000, 8.0), (48000, 1.1)])
def test_av_benchmark_reads_sound_like_its_vectors(golden: Path, rate_hz: int, length_s: float) -> None:
    expected = np.load(golden / "evaluation" / "loader" / "io.npz")[f"loaded_{rate_hz // 1000}k"]
    mono = torch.from_numpy(stereo(golden).mean(0))
    own = resample(mono - mono.mean(), 44100, rate_hz)[: int(rate_hz * length_s)].numpy()
    assert own.shape == expected.shape and np.abs(own - expected).max() <= 2e-5


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (16000, 48000), (22050, 32000), (48000, 48000)])
def test_a_tone_stays_a_tone(from_hz: int, to_hz: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(from_hz // 2) / from_hz)
    own = kaiser_best(tone, from_hz, to_hz)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(own)) / to_hz)
    middle = slice(to_hz // 20, -to_hz // 20)
    assert len(own) == -(-len(tone) * to_hz // from_hz)
    assert np.abs(own - expected)[middle].max() < 1e-3


def test_a_tone_above_the_new_half_rate_vanishes() -> None:
    tone = np.sin(2 * np.pi * 12000 * np.arange(24000) / 48000)
    assert np.abs(kaiser_best(tone, 48000, 16000)[800:-800]).max() < 1e-3


def test_a_rate_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="found 0 Hz"):
        kaiser_best(np.zeros(4), 0, 16000)
