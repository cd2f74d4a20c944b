"""Front ends of sound: published numbers, and what must hold for any sound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avpref.media.spectra import (
    KALDI_FRAME,
    STFT_SHORTEST,
    audioldm2_log_mel,
    htk_mel_power,
    kaldi_fbank,
    peak_normalised,
    resample,
)

RATES = st.sampled_from([8000, 11025, 16000, 22050, 24000, 44100, 48000])
KALDI_SCALE, KALDI_SHIFT = 9.138, -4.268
"""ImageBind's normalisation of :func:`kaldi_fbank`: x = (log mel + 4.268) / 9.138."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def tone(hz: float, num_samples: int, rate_hz: int = 16000) -> Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(num_samples, dtype=torch.float64) / rate_hz).float()


@pytest.fixture
def vectors(golden: Path) -> Path:
    return golden / "rewards"


@pytest.mark.golden
def test_resampling_gives_the_published_samples(vectors: Path) -> None:
    io = np.load(vectors / "audiobox" / "io.npz")
    checked = 0
    for name, rate_hz in zip("abc", io["sample_rates"], strict=True):
        actual = resample(torch.from_numpy(io[f"input_{name}"]), int(rate_hz), 16000).mean(dim=0, keepdim=True)
        for key in (f"mono16k_{name}", f"mono16k_{name}_first_window_head"):
            if key in io:
                expected = io[key]
                assert actual.shape == expected.shape or key.endswith("head")
                np.testing.assert_allclose(actual[:, : expected.shape[1]], expected, rtol=0, atol=2e-5)
                checked += 1
    assert checked


@pytest.mark.golden
def test_htk_mel_gives_the_published_powers(vectors: Path) -> None:
    io = np.load(vectors / "synchformer" / "io.npz")
    segments = torch.from_numpy(io["audio_16k"]).unfold(0, 10240, 5120)
    power = htk_mel_power(segments)
    expected = io["mel_power_seg0"]
    np.testing.assert_allclose(power[0], expected, rtol=0, atol=1e-6 * expected.max())
    logs = torch.log(power + 1e-6)
    actual = torch.nn.functional.pad(logs, (0, 1)).add(4.2677393).div(2 * 4.5689974)
    np.testing.assert_allclose(actual, io["mel_segments"], rtol=0, atol=1e-5)


@pytest.mark.golden
def test_kaldi_fbank_gives_the_published_logs(vectors: Path) -> None:
    io, media = (np.load(vectors / "imagebind" / name) for name in ("io.npz", "media.npz"))
    config = json.loads((vectors / "imagebind" / "config.json").read_text(encoding="utf-8"))
    checked = 0
    for case, cuts in config["audio_clip_samples_16k"].items():
        stored = "fbank_short" if case.startswith("short") else f"fbank_{case}"
        if stored not in io:
            continue
        audio = torch.from_numpy(media[f"audio16k_{case}" if f"audio16k_{case}" in media else f"audio_{case}"])
        rate_hz = 16000 if f"audio16k_{case}" in media else config["audio_rates"][case]
        mono = resample(audio, rate_hz, 16000)[:1]
        for (start, end), expected in zip(cuts, io[stored], strict=False):
            actual = kaldi_fbank(mono[:, start:end])[0].T
            difference = (
                actual - torch.from_numpy(expected[0, :, : actual.shape[1]] * KALDI_SCALE + KALDI_SHIFT)
            ).abs()
            assert difference.max() / KALDI_SCALE < 2e-2 and difference.mean() / KALDI_SCALE < 5e-5
            checked += 1
    assert checked


@pytest.mark.golden
def test_codec_mel_gives_the_published_logs(vectors: Path) -> None:
    io = np.load(vectors / "audioldm2_mel" / "io.npz")
    cases = json.loads((vectors / "audioldm2_mel" / "config.json").read_text(encoding="utf-8"))["cases"]
    whole = torch.from_numpy(io["audio_16k"][0])
    for name, case in cases.items():
        audio = whole[case["offset"] : case["offset"] + case["samples"]].clone()
        if name == "gap":
            audio[20000:30000] = 0.0
        actual = audioldm2_log_mel(audio, case["duration_s"])
        np.testing.assert_allclose(actual, io[f"mel_{name}"][0], rtol=0, atol=1e-3, err_msg=name)
        if (stored := f"peak_norm_{name}_first4000") in io:
            np.testing.assert_allclose(peak_normalised(audio)[:4000], io[stored], rtol=0, atol=1e-6)


@settings(max_examples=25)
@given(RATES, RATES, st.integers(1, 3000))
def test_resampled_length_and_linearity(from_hz: int, to_hz: int, num_samples: int) -> None:
    x, y = noise(2, num_samples, seed=1), noise(2, num_samples, seed=2)
    actual = resample(x, from_hz, to_hz)
    assert actual.shape == (2, -(-num_samples * to_hz // from_hz))
    together = resample(2.0 * x - 0.5 * y, from_hz, to_hz)
    torch.testing.assert_close(together, 2.0 * actual - 0.5 * resample(y, from_hz, to_hz), rtol=0, atol=2e-5)


def test_equal_rates_give_the_input_back() -> None:
    audio = noise(3, 100)
    assert resample(audio, 44100, 44100) is audio


@settings(max_examples=15)
@given(RATES, RATES)
def test_a_constant_stays_and_a_tone_keeps_its_time(from_hz: int, to_hz: int) -> None:
    inside = slice(to_hz // 40, -to_hz // 40)
    constant = resample(torch.ones(from_hz // 5), from_hz, to_hz)[inside]
    torch.testing.assert_close(constant, torch.ones_like(constant), rtol=0, atol=2e-3)
    actual, expected = resample(tone(440.0, from_hz // 5, from_hz), from_hz, to_hz), tone(440.0, to_hz // 5, to_hz)
    torch.testing.assert_close(actual[: len(expected)][inside], expected[inside], rtol=0, atol=4e-3)


def test_what_the_lower_rate_cannot_hold_is_removed() -> None:
    assert resample(tone(15000.0, 48000, 48000), 48000, 16000)[100:-100].abs().max() < 1e-2


def test_resampling_in_two_precisions_agrees_and_keeps_leading_axes() -> None:
    audio = noise(2, 3, 500)
    actual = resample(audio, 44100, 16000)
    assert actual.shape[:2] == (2, 3) and actual.dtype == torch.float32
    torch.testing.assert_close(actual, resample(audio.double(), 44100, 16000).float(), rtol=0, atol=2e-6)
    torch.testing.assert_close(actual[1, 2], resample(audio[1, 2], 44100, 16000), rtol=0, atol=2e-6)


def test_senseless_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="0 Hz"):
        resample(noise(10), 0, 16000)


@pytest.mark.parametrize("front_end", [kaldi_fbank, htk_mel_power])
def test_a_row_does_not_depend_on_its_batch_nor_much_on_precision(front_end: Callable[[Tensor], Tensor]) -> None:
    audio = noise(3, 4000) * torch.tensor([[1.0], [1e-2], [1e-4]])
    together = front_end(audio)
    for row in range(3):
        torch.testing.assert_close(together[row], front_end(audio[row : row + 1])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, front_end(audio.double()).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_samples", [KALDI_FRAME, 559, 560, 4000])
def test_kaldi_takes_whole_frames_only(num_samples: int) -> None:
    assert kaldi_fbank(noise(2, num_samples)).shape == (2, 1 + (num_samples - 400) // 160, 128)


@pytest.mark.parametrize("num_samples", [STFT_SHORTEST, 639, 640, 4000])
def test_htk_frames_stand_around_every_160th_sample(num_samples: int) -> None:
    assert htk_mel_power(noise(2, num_samples)).shape == (2, 128, 1 + num_samples // 160)


def test_silence_gives_the_floors() -> None:
    silence = torch.zeros(1, 16000)
    assert kaldi_fbank(silence).unique().tolist() == pytest.approx([math.log(2.0**-23)])
    assert htk_mel_power(silence).unique().tolist() == [0.0]
    assert audioldm2_log_mel(silence[0], 1.0).unique().tolist() == pytest.approx([math.log(1e-5), 0.0])


def test_a_louder_sound_is_louder_by_as_much() -> None:
    audio = noise(1, 8000)
    louder, floor = kaldi_fbank(10 * audio) - kaldi_fbank(audio), kaldi_fbank(torch.zeros_like(audio))
    above = kaldi_fbank(audio) > floor
    torch.testing.assert_close(louder[above], torch.full_like(louder[above], math.log(100.0)), rtol=0, atol=1e-3)
    assert above.float().mean() > 0.9
    torch.testing.assert_close(htk_mel_power(10 * audio), 100 * htk_mel_power(audio), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        audioldm2_log_mel(10 * audio[0], 0.5), audioldm2_log_mel(audio[0], 0.5), rtol=0, atol=1e-3
    )


def test_a_tone_lands_in_the_band_of_its_pitch() -> None:
    audio = tone(1000.0, 16000)
    highest = 2595 * math.log10(1 + 8000 / 700)
    htk_band = 2595 * math.log10(1 + 1000 / 700) / highest * 129 - 1
    assert abs(int(htk_mel_power(audio[None])[0, :, 50].argmax()) - htk_band) <= 1
    low, high, here = (1127 * math.log(1 + hz / 700) for hz in (20, 8000, 1000))
    assert abs(int(kaldi_fbank(audio[None])[0, 50].argmax()) - ((here - low) / (high - low) * 129 - 1)) <= 1
    slaney_top = 15 + 27 * math.log(8) / math.log(6.4)
    assert abs(int(audioldm2_log_mel(audio, 1.0)[50].argmax()) - (15 / slaney_top * 65 - 1)) <= 1


@pytest.mark.parametrize(("duration_s", "frames"), [(None, 1024), (1.0, 104), (4.0625, 408), (0.08, 8)])
def test_codec_frames_are_a_multiple_of_eight_and_zeros_follow(duration_s: float | None, frames: int) -> None:
    actual = audioldm2_log_mel(noise(8000), duration_s)
    assert actual.shape == (frames, 64)
    assert frames <= 51 or not actual[51:].any()


@pytest.mark.parametrize(("front_end", "fewest"), [(kaldi_fbank, KALDI_FRAME), (htk_mel_power, STFT_SHORTEST)])
def test_too_short_says_so(front_end: Callable[[Tensor], Tensor], fewest: int) -> None:
    assert front_end(noise(1, fewest)).isfinite().all()
    with pytest.raises(ValueError, match=f"{fewest - 1} samples.*{fewest}"):
        front_end(noise(1, fewest - 1))
    with pytest.raises(ValueError, match="512 samples"):
        audioldm2_log_mel(noise(512), 1.0)


def test_filters_made_in_inference_mode_serve_training_too() -> None:
    with torch.inference_mode():
        resample(noise(301), 12000, 16000)
        kaldi_fbank(noise(1, 4000))
    audio = noise(1, 3000).requires_grad_()
    kaldi_fbank(resample(audio, 12000, 16000)).sum().backward()
    assert audio.grad is not None and audio.grad.isfinite().all()
