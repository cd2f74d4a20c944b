"""Band levels: what is analysed, what is synthesised, and that one undoes the other."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.media.bands import FLOOR_DB, BandLayout, analyse, synthesise
from avpref.media.reading import read_clip
from avpref.media.writing import encode_clip

LAYOUT = BandLayout(16000, 16.0, 8)


def random_levels(seed: int, low_db: float = -60.0, high_db: float = -20.0, batch: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low_db, high_db, (batch, 32, 8)).astype(np.float32)


def test_a_tone_gives_its_mean_square_in_its_band() -> None:
    for band in range(8):
        centre = float(LAYOUT.edges_hz[band : band + 2].mean())
        audio = (0.2 * np.sin(2 * np.pi * centre * np.arange(16000) / 16000)).astype(np.float32)
        levels = analyse(audio, LAYOUT)
        assert levels.shape == (16, 8) and levels.dtype == np.float32
        np.testing.assert_allclose(levels[:, band], 10 * np.log10(0.02), atol=0.5)
        assert np.delete(levels, band, axis=1).max() < -35


def test_white_noise_fills_bands_by_their_width() -> None:
    audio = (0.1 * np.random.default_rng(0).standard_normal(160000)).astype(np.float32)
    power = (10 ** (analyse(audio, LAYOUT).astype(np.float64) / 10)).mean(axis=0)
    np.testing.assert_allclose(power, 0.01 * np.diff(LAYOUT.edges_hz) / 8000, rtol=0.1)


def test_silence_is_the_floor() -> None:
    np.testing.assert_allclose(analyse(np.zeros(16000, np.float32), LAYOUT), FLOOR_DB, atol=1e-3)
    assert not synthesise(np.full((16, 8), FLOOR_DB, np.float32), LAYOUT).any()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_synthesis_is_undone_by_analysis(seed: int) -> None:
    levels = random_levels(seed)
    error = np.abs(analyse(synthesise(levels, LAYOUT), LAYOUT) - levels)
    assert error.mean() < 0.2
    assert np.quantile(error[levels > levels.max(axis=-1, keepdims=True) - 30], 0.99) < 0.6


def test_levels_survive_the_file_format() -> None:
    levels = random_levels(7, batch=1)[0]
    audio = synthesise(levels, LAYOUT)
    data = encode_clip(np.zeros((16, 16, 16, 3), np.uint8), 8.0, audio, 16000)
    clip = read_clip(io.BytesIO(data))
    assert clip.audio is not None
    error = np.abs(analyse(clip.audio, LAYOUT) - levels)
    assert error.mean() < 0.5 and error[levels > -35].max() < 1.5


def test_an_onset_stays_in_its_frame() -> None:
    """40 dB up from one frame to the next: nothing is heard in the frame before, not even after the file format."""
    levels = np.full((32, 8), -60.0, np.float32)
    levels[12:20, 4] = -20.0
    audio = synthesise(levels, LAYOUT)
    data = encode_clip(np.zeros((16, 16, 16, 3), np.uint8), 8.0, audio, 16000)
    clip = read_clip(io.BytesIO(data))
    assert clip.audio is not None
    for heard in (audio, clip.audio):
        actual = analyse(heard, LAYOUT)[:, 4]
        assert actual[11] < -50 and actual[12] == pytest.approx(-20.0, abs=0.5)


def test_rows_of_a_batch_do_not_mix() -> None:
    levels = random_levels(3)
    together = synthesise(levels, LAYOUT)
    for row, alone in zip(together, levels, strict=True):
        np.testing.assert_allclose(row, synthesise(alone, LAYOUT), atol=1e-6)
        np.testing.assert_allclose(
            analyse(row, LAYOUT), analyse(together, LAYOUT)[[np.array_equal(r, row) for r in together]][0]
        )


def test_layouts_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="whole number of samples"):
        BandLayout(16000, 15.3, 8)
    with pytest.raises(ValueError, match="too narrow"):
        BandLayout(16000, 250.0, 40)
    with pytest.raises(ValueError, match="whole number of frames"):
        analyse(np.zeros(1500, np.float32), LAYOUT)
