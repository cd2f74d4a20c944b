"""Band levels of audio and synthesis from them: samples [S] ↔ decibels [L, K], numpy only.

The waveform is split into L frames without overlap, so that a sharp onset stays in its frame. Each frame is tapered (Tukey, a quarter
at either end) and its power spectrum is summed over K geometric bands from ``LOWEST_HZ`` to half the sample rate. Decibels are
relative to full scale (a mean square of 1) and approach ``FLOOR_DB`` smoothly.

Synthesis gives every band a carrier of constant power inside the band (a slowly frequency-modulated tone) and sets its level frame by
frame. Levels change only inside the louder of two neighbouring frames, within its tapered ends, so no energy precedes an onset and
:func:`analyse` returns the requested levels (see :func:`synthesise` for the error).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

FLOOR_DB = -80.0
"""Level of digital silence, the lowest level."""
LOWEST_HZ = 200.0
"""Lower edge of the first band; lower frequencies are ignored."""
RISE_S = 0.004
"""Rise time of a level in synthesis, in seconds."""
SWING = 0.6
"""Modulation index of the carriers."""


@dataclass(frozen=True)
class BandLayout:
    """Sample rate, frame rate and number of bands. Raises ValueError for fractional frame lengths and for too narrow bands."""

    sample_rate_hz: int
    rate_hz: float
    num_bands: int

    def __post_init__(self) -> None:
        hop = self.sample_rate_hz / self.rate_hz
        if abs(hop - round(hop)) > 1e-9 or hop < 32:
            raise ValueError(
                f"{self.sample_rate_hz} Hz / {self.rate_hz} Hz must be a whole number of samples, 32 or more"
            )
        if self.num_bands < 1 or (self.weights.sum(axis=0) < 1.0).any():
            raise ValueError(f"{self.num_bands} bands are too narrow for frames of {round(hop)} samples")

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return round(self.sample_rate_hz / self.rate_hz)

    @cached_property
    def edges_hz(self) -> NDArray[np.float64]:
        """Band edges [K + 1], geometric."""
        return np.geomspace(LOWEST_HZ, self.sample_rate_hz / 2, self.num_bands + 1)

    @cached_property
    def taper(self) -> NDArray[np.float32]:
        """Tukey window [hop], a quarter of cosine at either end."""
        position = (np.arange(self.hop) + 0.5) / self.hop
        edge = np.clip(np.minimum(position, 1 - position) / 0.25, 0.0, 1.0)
        return (0.5 - 0.5 * np.cos(np.pi * edge)).astype(np.float32)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Share of each spectral bin in each band [hop // 2 + 1, K]; a bin on an edge is split between two bands."""
        spacing = self.sample_rate_hz / self.hop
        low = (np.arange(self.hop // 2 + 1) - 0.5)[:, None] * spacing
        overlap = np.minimum(low + spacing, self.edges_hz[1:]) - np.maximum(low, self.edges_hz[:-1])
        return np.clip(overlap / spacing, 0.0, 1.0).astype(np.float32)

    def num_frames(self, num_samples: int) -> int:
        """Frames in ``num_samples`` samples. Raises ValueError if that is not a whole number."""
        if num_samples % self.hop:
            raise ValueError(f"{num_samples} samples are not a whole number of frames of {self.hop}")
        return num_samples // self.hop


def analyse(audio: NDArray[np.float32], layout: BandLayout) -> NDArray[np.float32]:
    """Levels [..., L, K] in dB of waveforms [..., S], at ``FLOOR_DB`` or above.

    The level of a tone inside a band is its mean square. Raises ValueError if S is not a whole number of frames.
    """
    num_frames = layout.num_frames(audio.shape[-1])
    frames = audio.reshape(*audio.shape[:-1], num_frames, layout.hop) * layout.taper
    spectrum = np.fft.rfft(frames).astype(np.complex64)
    power = spectrum.real**2 + spectrum.imag**2
    scale = 2.0 / (layout.hop * float(np.square(layout.taper).sum()))
    return (10.0 * np.log10(power @ layout.weights * scale + 10.0 ** (FLOOR_DB / 10))).astype(np.float32)


def synthesise(levels_db: NDArray[np.float32], layout: BandLayout) -> NDArray[np.float32]:
    """Waveforms [..., S] for which :func:`analyse` returns ``levels_db`` [..., L, K].

    With 16 frames a second and 8 bands at 16 kHz the mean error is below 0.5 dB for levels of random height over 40 dB
    from band to band and frame to frame; levels less than 30 dB below the loudest of their frame are within 1.5 dB.
    """
    num_frames = levels_db.shape[-2]
    power = np.maximum(10.0 ** (levels_db.astype(np.float64) / 10) - 10.0 ** (FLOOR_DB / 10), 0.0)
    level = np.sqrt(power).astype(np.float32)
    silence = np.zeros_like(level[..., :1, :])
    fall_in = level - np.minimum(level, np.concatenate([silence, level[..., :-1, :]], axis=-2))
    fall_out = level - np.minimum(level, np.concatenate([level[..., 1:, :], silence], axis=-2))
    ramps = _ramps(layout)
    shape = np.stack([level, fall_in, fall_out], axis=-1) @ ramps
    audio = np.einsum("...lkn,lkn->...ln", shape, _carriers(layout, num_frames))
    return np.ascontiguousarray(audio.reshape(*levels_db.shape[:-2], -1), dtype=np.float32)


@lru_cache(maxsize=4)
def _carriers(layout: BandLayout, num_frames: int) -> NDArray[np.float32]:
    """One wave per band [L, K, hop], mean square 1, inside the band: frequency-modulated, so of constant power."""
    seconds = np.arange(num_frames * layout.hop) / layout.sample_rate_hz
    low, high = layout.edges_hz[:-1, None], layout.edges_hz[1:, None]
    phase = np.pi * (low + high) * seconds + SWING * np.sin(np.pi / 4 * (high - low) * seconds)
    waves = np.sqrt(2.0) * np.sin(phase).reshape(layout.num_bands, num_frames, layout.hop)
    return np.ascontiguousarray(waves.transpose(1, 0, 2), dtype=np.float32)


@lru_cache(maxsize=4)
def _ramps(layout: BandLayout) -> NDArray[np.float32]:
    """Envelopes [3, hop]: a constant level, and the negative corrections of a rise at the start and a fall at the end."""
    hop = layout.hop
    rise, fall = max(2, round(RISE_S * layout.sample_rate_hz)), hop // 4
    ramps = np.zeros((3, hop), np.float32)
    ramps[0] = 1.0
    ramps[1, :rise] = -(0.5 + 0.5 * np.cos(np.pi * (np.arange(rise) + 0.5) / rise))
    ramps[2, -fall:] = -(0.5 - 0.5 * np.cos(np.pi * (np.arange(fall) + 0.5) / fall))
    return ramps
