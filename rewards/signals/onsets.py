"""Onsets of sounds: the onset strength of a waveform and its peaks.

The numbers are those of librosa 0.11 with its default settings (``librosa.onset.onset_strength`` and
``librosa.onset.onset_detect``; McFee et al., "librosa: Audio and music signal analysis in Python", 2015), which the published
AV-Align score is based on: spectra of 2048 samples every 512, 128 Slaney mel bands, decibels, rise from one spectrum to the
next, mean over the bands. They are implemented from the definitions, so that librosa is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

from avpref.media.sound.mel_filters import periodic_hann, slaney_filters

FFT_SAMPLES = 2048
HOP_SAMPLES = 512
NUM_BANDS = 128
LAG_FRAMES = 1
MIN_POWER = 1e-10
DYNAMIC_RANGE_DB = 80.0
PEAK_MAX_S = 0.03
PEAK_MEAN_S = 0.10
PEAK_WAIT_S = 0.03
PEAK_DELTA = 0.07

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Onsets:
    """Peaks of the onset strength: ``frames`` [n] int64 (spectrum indices), ``times_s`` [n] float64, ``strength`` [F] float32."""

    frames: NDArray[np.int64]
    times_s: NDArray[np.float64]
    strength: FloatArray


@lru_cache(maxsize=8)
def mel_filters(rate_hz: float, num_bands: int = NUM_BANDS, fft_samples: int = FFT_SAMPLES) -> FloatArray:
    """Triangular filters [num_bands, fft_samples // 2 + 1] from 0 Hz to half of ``rate_hz``, each of area one (Slaney's norm)."""
    return slaney_filters(rate_hz, fft_samples, num_bands, 0.0, rate_hz / 2.0).astype(np.float32)


def mel_power(audio: FloatArray, rate_hz: float) -> FloatArray:
    """Mel power spectrogram [128, 1 + S // 512] of the waveform [S]; spectrum k is centred on sample 512·k, zeros beyond the ends.

    Raises ValueError where ``audio`` is not one non-empty finite channel.
    """
    if audio.ndim != 1 or audio.size == 0 or not np.isfinite(audio).all():
        raise ValueError(f"expected one channel of finite samples, shape [S], S > 0; found shape {audio.shape}")
    padded = np.pad(audio.astype(np.float32, copy=False), FFT_SAMPLES // 2)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]
    spectra = rfft(pieces * hann_window(), axis=1)
    power = spectra.real**2 + spectra.imag**2
    return (power @ mel_filters(rate_hz).T).T


@lru_cache(maxsize=1)
def hann_window() -> FloatArray:
    """Periodic Hann window [2048]."""
    return periodic_hann(FFT_SAMPLES).astype(np.float32)


def decibels(power: FloatArray) -> FloatArray:
    """10·log10 of ``power`` (any shape), at most 80 dB below its largest value; powers below 1e-10 count as 1e-10."""
    level = 10.0 * np.log10(np.maximum(power, np.float32(MIN_POWER)))
    return np.maximum(level, level.max() - np.float32(DYNAMIC_RANGE_DB))


def onset_strength_from_mel(power: FloatArray) -> FloatArray:
    """Onset strength [F] of a mel power spectrogram [bands, F]: mean over bands of the rise in dB from the previous spectrum.

    A sound enters a centred window half a window early, so the curve is delayed by half a window (two spectra).
    """
    level = decibels(power)
    rise = np.maximum(level[:, LAG_FRAMES:] - level[:, :-LAG_FRAMES], 0.0).mean(axis=0)
    late = LAG_FRAMES + FFT_SAMPLES // (2 * HOP_SAMPLES)
    return np.pad(rise, (late, 0))[: power.shape[1]].astype(np.float32)


def onset_strength(audio: FloatArray, rate_hz: float) -> FloatArray:
    """Onset strength [1 + S // 512] in dB of the waveform [S], one value per 512 samples. Raises ValueError as :func:`mel_power`."""
    return onset_strength_from_mel(mel_power(audio, rate_hz))


def peak_frames(strength: FloatArray, rate_hz: float) -> NDArray[np.int64]:
    """Indices of the onsets in the strength curve [F] (librosa's ``peak_pick`` with the default windows in seconds).

    A frame is a peak if the curve (scaled to [0, 1]) is the largest of the last 0.03 s and at least 0.07 above the mean of
    ±0.1 s; the next peak is at least 0.03 s later. The windows are rounded *down* to frames: at 16 kHz the 0.03 s
    become zero frames, every frame is the largest of its window, and a click is reported at two or three consecutive frames.
    The published score has this defect, so it is kept; :func:`avpref.rewards.signals.av_align.merge_duplicates` removes the
    duplicates.
    """
    scaled = strength.astype(np.float64) - strength.min(initial=np.inf)
    if not scaled.any():
        return np.zeros(0, np.int64)
    scaled = scaled / scaled.max()
    before_max, before_mean, wait = (
        int(seconds * rate_hz // HOP_SAMPLES) for seconds in (PEAK_MAX_S, PEAK_MEAN_S, PEAK_WAIT_S)
    )
    peaks: list[int] = []
    for frame, value in enumerate(scaled):
        if peaks and frame <= peaks[-1] + wait:
            continue
        is_largest = value >= scaled[max(0, frame - before_max) : frame + 1].max()
        if is_largest and value >= scaled[max(0, frame - before_mean) : frame + before_mean + 1].mean() + PEAK_DELTA:
            peaks.append(frame)
    return np.array(peaks, np.int64)


def frame_times_s(frames: NDArray[np.int64], rate_hz: float) -> NDArray[np.float64]:
    """Times in seconds of spectrum indices ``frames`` at the sample rate ``rate_hz``."""
    return frames * HOP_SAMPLES / float(rate_hz)


def detect_onsets(audio: FloatArray, rate_hz: float) -> Onsets:
    """Onsets of the waveform [S]. Raises ValueError as :func:`mel_power`."""
    strength = onset_strength(audio, rate_hz)
    frames = peak_frames(strength, rate_hz)
    return Onsets(frames, frame_times_s(frames, rate_hz), strength)
