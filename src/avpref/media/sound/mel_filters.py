"""Triangular mel filters, mel scales and the Hann window of spectrograms, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SLANEY_BREAK_HZ = 1000.0
SLANEY_HZ_PER_MEL = 200.0 / 3
SLANEY_LOG_STEP = np.log(6.4) / 27


def bins_hz(rate_hz: float, fft_samples: int) -> FloatArray:
    """[fft_samples // 2 + 1]: the frequencies of a real transform."""
    return np.asarray(np.fft.rfftfreq(fft_samples, 1.0 / rate_hz), dtype=np.float64)


def slaney_filters(rate_hz: float, fft_samples: int, num_mels: int, low_hz: float, high_hz: float) -> FloatArray:
    """[num_mels, fft_samples // 2 + 1]: triangles that are linear in Hz, of area 1 (Slaney's scale and norm, as librosa's default)."""
    edges = mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(high_hz), num_mels + 2))
    return triangles(bins_hz(rate_hz, fft_samples), edges) * (2 / (edges[2:] - edges[:-2]))[:, None]


def log_scale_filters(
    rate_hz: float, fft_samples: int, num_mels: int, low_hz: float, high_hz: float, first_bin: int = 0
) -> FloatArray:
    """[num_mels, fft_samples // 2 + 1]: triangles of height 1 that are linear in 1127 ln(1 + f / 700).

    Bins below ``first_bin`` have weight 0.
    """
    positions = log_scale(bins_hz(rate_hz, fft_samples))
    edges = np.linspace(log_scale(low_hz), log_scale(high_hz), num_mels + 2)
    weights = triangles(positions, edges)
    weights[:, :first_bin] = 0
    return weights


def log_scale(hz: FloatArray | float) -> FloatArray:
    """Mel value 1127 ln(1 + f / 700)."""
    return 1127.0 * np.log1p(np.asarray(hz, dtype=np.float64) / 700.0)


def hz_to_mel(hz: FloatArray | float) -> FloatArray:
    """Slaney's mel scale: linear to 1 kHz (15 mel), then 27 mel for each factor 6.4."""
    hz = np.asarray(hz, dtype=np.float64)
    logs = np.log(np.maximum(hz, SLANEY_BREAK_HZ) / SLANEY_BREAK_HZ) / SLANEY_LOG_STEP
    return np.minimum(hz, SLANEY_BREAK_HZ) / SLANEY_HZ_PER_MEL + logs


def mel_to_hz(mel: FloatArray) -> FloatArray:
    """Inverse of :func:`hz_to_mel`."""
    limit = SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL
    return np.minimum(mel, limit) * SLANEY_HZ_PER_MEL * np.exp(np.maximum(mel - limit, 0.0) * SLANEY_LOG_STEP)


def triangles(positions: FloatArray, edges: FloatArray) -> FloatArray:
    """[M, K]: M triangles of height 1 over consecutive triples of M + 2 ``edges``, evaluated at K ``positions``."""
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (positions - left) / (centre - left)
    falling = (right - positions) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def periodic_hann(length: int) -> FloatArray:
    """[length]: Hann window of period ``length``."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
