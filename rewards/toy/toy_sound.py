"""Analysis of the toy world's rings: level, timbre and onset times, with a resolution finer than the codec's frames.

An onset is a rise from the mean power of the 62.5 ms before an instant to that of the 62.5 ms after it, in the band that
rises most. As a function of the instant the rise is a triangle, even if the sound has a resolution of 62.5 ms only, so its
centre of mass gives the time to a few milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from avpref.media.bands import BandLayout, analyse

NUM_BANDS = 8
FRAMES_HZ = 16
FINE = 8
"""Number of fine cells per frame."""
LOUD_SHARE, QUIET_SHARE = 0.15, 0.5
"""Shares of the loudest and of the quietest frames, which are taken as ring and as floor."""
WEAKEST = 0.05
"""Rises below this share of the strongest one (in power) are not onsets."""
DECAY_LAG_S = 0.018
"""A ring decays while its onset is measured, which moves the centre of mass ahead by this much."""
FIRST = 0.25
"""The first onset is the first with at least this share of the strongest one's power."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RingOnsets:
    """Times in seconds [N], ascending, and rises in power [N]; N is at least 1."""

    times_s: Doubles
    strengths: Doubles

    @property
    def first_s(self) -> float:
        """Time of the first onset with at least :data:`FIRST` of the strongest one's power."""
        return float(self.times_s[np.argmax(self.strengths >= FIRST * self.strengths.max())])


@dataclass(frozen=True, eq=False)
class SoundLevels:
    """Mean square ``power`` [L, K] of each frame and band, and the waveform ``audio`` [S] cut to whole frames."""

    audio: NDArray[np.float32]
    layout: BandLayout
    power: Doubles

    @property
    def rise(self) -> Doubles:
        """By band [K], mean power of the loudest frames less that of the quieter half, at least 0."""
        order = np.argsort(self.power.sum(axis=1))
        loud = order[-max(1, round(LOUD_SHARE * len(order))) :]
        quiet = order[: max(1, round(QUIET_SHARE * len(order)))]
        return np.maximum(self.power[loud].mean(axis=0) - self.power[quiet].mean(axis=0), 0.0)


def analyse_sound(audio: NDArray[np.float32], sample_rate_hz: int) -> SoundLevels:
    """Analyse a waveform [S] of at least one frame (62.5 ms)."""
    layout = _layout(sample_rate_hz)
    whole = audio[: len(audio) // layout.hop * layout.hop]
    return SoundLevels(whole, layout, 10.0 ** (analyse(whole, layout).astype(np.float64) / 10))


@lru_cache(maxsize=4)
def _layout(sample_rate_hz: int) -> BandLayout:
    return BandLayout(sample_rate_hz, sample_rate_hz / round(sample_rate_hz / FRAMES_HZ), NUM_BANDS)


def peak_to_floor_db(sound: SoundLevels) -> float:
    """Level of the loudest frame above the mean level of the quietest tenth, in dB, over all bands."""
    levels = np.sort(10 * np.log10(sound.power.sum(axis=1)))
    return float(levels[-1] - levels[: max(1, len(levels) // 10)].mean())


def band_match(sound: SoundLevels, centre_hz: float) -> float:
    """Cosine in [0, 1] between the sound's amplitudes by band and a sound in the band of ``centre_hz`` alone.

    The whole sound counts, so noise and rings of another material both lower the number.
    """
    band = int(np.searchsorted(sound.layout.edges_hz, centre_hz, side="right")) - 1
    energy = sound.power.sum(axis=0)
    return float(np.sqrt(energy[band] / max(energy.sum(), 1e-12)))


def find_onsets(sound: SoundLevels) -> RingOnsets:
    """Onsets in the band that rises most; a single one of strength 0 at time 0 if there are none."""
    power = _fine_power(sound, int(sound.rise.argmax()))
    floor = np.sort(power)[: max(1, len(power) // 5)].mean()
    padded = np.concatenate([np.full(FINE, floor), power, np.full(FINE, floor)])
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    middle = sums[FINE:-FINE]
    rises = np.maximum(sums[2 * FINE :] - 2 * middle + sums[: -2 * FINE], 0.0)
    cell_s = sound.layout.hop / FINE / sound.layout.sample_rate_hz
    times, strengths = [], []
    for start, stop in _runs(rises > WEAKEST * rises.max()):
        run = rises[start:stop]
        times.append(float(run @ np.arange(start, stop) / run.sum()) * cell_s + DECAY_LAG_S)
        strengths.append(float(run.max()))
    if not times:
        return RingOnsets(np.zeros(1), np.zeros(1))
    return RingOnsets(np.array(times), np.array(strengths))


def _fine_power(sound: SoundLevels, band: int) -> Doubles:
    """Mean square [L · FINE] of one band: its part of the spectrum, shifted to frequency 0 and transformed back."""
    spectrum = np.fft.rfft(sound.audio)
    low, high = sound.layout.edges_hz[band : band + 2] * len(sound.audio) / sound.layout.sample_rate_hz
    part = spectrum[int(low) : int(high) + 1]
    num_cells = len(sound.power) * FINE
    per_cell = -(-len(part) // num_cells)
    envelope = np.fft.ifft(part, per_cell * num_cells) * (per_cell * num_cells / len(sound.audio))
    return 2 * np.square(np.abs(envelope)).reshape(num_cells, per_cell).mean(axis=1)


def _runs(is_in: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Starts and stops of the runs of True."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], is_in, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(steps[::2], steps[1::2], strict=True)]
