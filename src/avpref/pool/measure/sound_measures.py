"""Measures of a clip's sound that need no network: loudness, peak, clipping, silence, band width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

from avpref.domain import OWN_TERMS, SOUND, Dimension, Metric, Score
from avpref.identity import digest
from avpref.pool.measure.loudness import integrated_lufs
from avpref.rewards.protocol import ScorableClip, measured, skipped

VERSION = 2
WINDOW_S = 0.02
SILENT_DB, FLOOR_DB = -60.0, -120.0
CLIP_LEVEL, CLIP_RUN, FLATNESS = 0.9, 3, 3.0
"""Sound is clipped in a run of three samples or more, all at 0.9 of full scale or more, on one side, that is flatter than its ends say:
an arc with their slopes would rise three times as far on average. Coded sound leaves the plateau, so that a higher level misses it."""
FFT, BAND_HZ, BAND_RANGE_DB, LOUD_PERCENT = 2048, 200.0, 60.0, 95.0
METRICS = tuple(
    Metric(name, unit, is_better, Dimension.AUDIO, SOUND)
    for name, unit, is_better in (
        ("loudness_lufs", "LUFS", True),
        ("peak_db", "dB of full scale", False),
        ("clipped_share", "share of the samples", False),
        ("silent_share", "share of the clip", False),
        ("bandwidth_hz", "Hz", True),
    )
)
NO_SOUND, BELOW_GATE = "no audio track", "silent or shorter than 0.4 s"


class SoundMeasures:
    """Fills :data:`METRICS`; see :class:`avpref.rewards.protocol.Scorer`. Silence has values, because filters ask for it."""

    metrics, terms = METRICS, OWN_TERMS

    @property
    def fingerprint(self) -> str:
        """Hash of this file's version."""
        return digest("sound measures", VERSION)

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [self._scores(clip) for clip in clips]

    def _scores(self, clip: ScorableClip) -> list[Score]:
        media = clip.clip
        if media.audio is None or not len(media.audio):
            return [skipped(clip.candidate_id, metric, NO_SOUND) for metric in METRICS]
        channels = media.audio[None] if media.channels is None else media.channels
        values: dict[str, float | None] = {
            "loudness_lufs": integrated_lufs(channels, media.sample_rate_hz),
            "peak_db": decibels(float(np.abs(channels).max())),
            "clipped_share": max(clipped_share(channel) for channel in channels),
            "silent_share": silent_share(media.audio, media.sample_rate_hz),
            "bandwidth_hz": bandwidth_hz(media.audio, media.sample_rate_hz),
        }
        return [_score(clip.candidate_id, metric, values[metric.name]) for metric in METRICS]


def _score(candidate_id: str, metric: Metric, value: float | None) -> Score:
    return skipped(candidate_id, metric, BELOW_GATE) if value is None else measured(candidate_id, metric, value)


def decibels(magnitude: float) -> float:
    """20·log10 of ``magnitude``, at least −120."""
    return max(FLOOR_DB, 20.0 * float(np.log10(magnitude))) if magnitude > 0 else FLOOR_DB


def clipped_share(sound: NDArray[np.float32]) -> float:
    """Share of the samples [S] in clipped runs; see :data:`CLIP_LEVEL`."""
    return sum(_num_clipped(side) for side in (sound, -sound)) / len(sound)


def _num_clipped(sound: NDArray[np.float32]) -> int:
    """Number of samples in the runs of ``sound`` [S] that are clipped on the upper side."""
    padded = np.concatenate([[0.0], sound, [0.0]])
    starts, ends = np.flatnonzero(np.diff((padded >= CLIP_LEVEL).astype(np.int8))).reshape(-1, 2).T + 1
    lengths = ends - starts
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    rises = (sums[ends] - sums[starts]) / np.maximum(lengths, 1) - CLIP_LEVEL
    slopes = (padded[starts] - padded[starts - 1] + padded[ends - 1] - padded[ends]) / 2
    # a parabola that rises and falls with these slopes over this length is slope * length / 6 above its ends on average
    is_clipped = (lengths >= CLIP_RUN) & (slopes * lengths / 6 >= FLATNESS * rises)
    return int(lengths[is_clipped].sum())


def silent_share(sound: NDArray[np.float32], rate_hz: int) -> float:
    """Share of the windows of 20 ms of sound [S] whose level is below −60 dB of full scale."""
    size = min(len(sound), max(1, round(WINDOW_S * rate_hz)))
    windows = sound[: len(sound) // size * size].reshape(-1, size)
    power = np.mean(np.square(windows, dtype=np.float64), axis=1)
    return float(np.mean(power < 10.0 ** (SILENT_DB / 10.0)))


def bandwidth_hz(sound: NDArray[np.float32], rate_hz: int) -> float | None:
    """Upper edge of the highest band of 200 Hz whose loud passages are at most 60 dB below those of the loudest band.

    The level of a band is the 95th percentile over spectra of 2048 samples, half overlapping. None for silence and for less sound.
    """
    if len(sound) < FFT or not np.any(sound):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(sound, FFT)[:: FFT // 2]
    spectra = rfft(windows * np.hanning(FFT).astype(np.float32), axis=1)
    power = spectra.real**2 + spectra.imag**2
    width = max(1, round(BAND_HZ * FFT / rate_hz))
    starts = np.arange(0, power.shape[1], width)
    levels = np.percentile(np.add.reduceat(power, starts, axis=1), LOUD_PERCENT, axis=0)
    if levels.max() <= 0:
        return None
    loud = np.flatnonzero(levels >= levels.max() * 10.0 ** (-BAND_RANGE_DB / 10.0))
    return float(min(rate_hz / 2.0, (starts[loud[-1]] + width) * rate_hz / FFT))
