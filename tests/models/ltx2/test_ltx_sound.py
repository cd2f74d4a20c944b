"""The waveform-to-mel front end against an independent computation, and stereo through codec and files."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avpref.media.delay import delay_audio
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.spectra import RATE_HZ, log_mel
from avpref.media.writing import encode_clip
from avpref.models.ltx2.ltx_codec import stereo

FFT, HOP, BANDS = 1024, 160, 64


def mel_hz() -> NDArray[np.float64]:
    """Edges of 64 triangles: 15 equal steps up to 1000 Hz, then steps of a constant factor, 27 of them for a factor of 6.4."""
    factor = 6.4 ** (1 / 27)
    top = 15 + np.log(8) / np.log(factor)
    return np.array([m * 1000 / 15 if m < 15 else 1000 * factor ** (m - 15) for m in np.linspace(0, top, BANDS + 2)])


def filters() -> NDArray[np.float64]:
    """[64, 513]: triangles of area 1 over frequency in Hz, built bin by bin."""
    edges = mel_hz()
    weights = np.zeros((BANDS, FFT // 2 + 1))
    for band in range(BANDS):
        low, peak, high = edges[band : band + 3]
        for k in range(FFT // 2 + 1):
            hz = k * RATE_HZ / FFT
            side = (hz - low) / (peak - low) if hz <= peak else (high - hz) / (high - peak)
            weights[band, k] = max(0.0, side) * 2 / (high - low)
    return weights


def reference_log_mel(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F, 64] of one channel by explicit frames: mirrored ends, Hann window of period 1024, magnitude, floor, logarithm."""
    padded = np.concatenate([sound[FFT // 2 : 0 : -1], sound, sound[-2 : -FFT // 2 - 2 : -1]])
    window = np.sin(np.pi * np.arange(FFT) / FFT) ** 2
    count = 1 + len(sound) // HOP
    frames = np.stack([padded[i * HOP : i * HOP + FFT] * window for i in range(count)])
    return np.log(np.maximum(np.abs(np.fft.rfft(frames)) @ filters().T, 1e-5))


@pytest.mark.parametrize("num_samples", [FFT // 2 + 1, 5333, 16000])
def test_log_mel_equals_an_independent_computation(num_samples: int) -> None:
    rng = np.random.default_rng(num_samples)
    seconds = np.arange(num_samples) / RATE_HZ
    tone = 0.5 * np.sin(2 * np.pi * 440 * seconds)
    channels = np.stack([tone + 0.1 * rng.standard_normal(num_samples), 1e-4 * rng.standard_normal(num_samples)])
    expected = np.stack([reference_log_mel(channel) for channel in channels])
    computed = log_mel(torch.from_numpy(channels))
    assert computed.shape == (2, 1 + num_samples // HOP, BANDS)
    np.testing.assert_allclose(computed.numpy(), expected, rtol=0, atol=1e-9)
    in_float32 = log_mel(torch.from_numpy(channels.astype(np.float32)))
    np.testing.assert_allclose(in_float32.numpy(), expected, rtol=0, atol=2e-3)


def test_silence_is_the_floor() -> None:
    assert torch.equal(log_mel(torch.zeros(2, 2000)), torch.full((2, 13, BANDS), 1e-5).log())


def stereo_clip(shape: ClipShape) -> NDArray[np.float32]:
    """[2, S]: another tone on each side."""
    seconds = np.arange(shape.num_samples) / shape.sample_rate_hz
    return np.stack([0.4 * np.sin(2 * np.pi * hz * seconds) for hz in (440.0, 1300.0)]).astype(np.float32)


def test_both_channels_are_written_and_read() -> None:
    shape = ClipShape(25, 64, 64, 24.0, 48000)
    sound = stereo_clip(shape)
    frames = np.zeros((25, 64, 64, 3), np.uint8)
    clip = read_clip(io.BytesIO(encode_clip(frames, 24.0, sound, 48000)), shape)
    channels = stereo(clip)
    middle = slice(4000, -4000)
    assert channels.shape == sound.shape
    assert np.abs(channels - sound)[:, middle].mean() < 0.02
    assert clip.audio is not None
    np.testing.assert_allclose(clip.audio, channels.mean(axis=0), atol=1e-6)


def test_mono_is_on_both_channels() -> None:
    clip = DecodedClip(None, 0.0, np.arange(4, dtype=np.float32), 4, 1.0)
    assert np.array_equal(stereo(clip), np.stack([np.arange(4), np.arange(4)]))
    surround = replace(clip, channels=np.ones((6, 4), np.float32))
    assert np.array_equal(stereo(surround), stereo(clip))


@pytest.mark.parametrize("delay_s", [0.25, -0.25])
def test_both_channels_are_delayed_alike(delay_s: float) -> None:
    sound = stereo_clip(ClipShape(24, 64, 64, 24.0, 1000))
    delayed = delay_audio(sound, delay_s, 1000)
    kept = (slice(250, None), slice(None, -250)) if delay_s > 0 else (slice(None, -250), slice(250, None))
    assert delayed.shape == sound.shape
    assert np.array_equal(delayed[:, kept[0]], sound[:, kept[1]])
