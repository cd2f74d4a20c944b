"""AV-Align: whether sounds begin when the picture moves. The published score, a bounded one, and the delay between the tracks.

After G. Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation" (2023): compare the
onsets of the sound with the peaks of the optical flow. :func:`published_alignment` is the score as the JavisBench evaluation
computes it, defects included: one peak of the picture may be hit by many onsets, so the score can exceed 1.
:func:`bounded_alignment` counts each peak once.

Peaks are few and sensitive to noise, so this module also compares the curves that the peaks are taken from, without a shift
(:func:`zero_lag_cosine`) and at the best shift (:func:`best_lag`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from avpref.rewards.signals.motion import local_maxima
from avpref.rewards.signals.onsets import HOP_SAMPLES, PEAK_WAIT_S, FloatArray, Onsets, frame_times_s

PUBLISHED_EPS = 1e-6
CURVE_HZ = 100.0
CURVE_BLUR_S = 0.06
MAX_LAG_S = 0.7
MAX_LAG_SHARE = 1.0 / 3.0
MIN_ONSETS_DB = 0.01
MIN_MOTION_PX = 0.02

Times = NDArray[np.float64]
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """Numbers of peaks of both tracks and of hits between them; ``score`` is hits over the union."""

    num_audio_peaks: int
    num_video_peaks: int
    hits: int
    score: float


@dataclass(frozen=True)
class Lag:
    """Delay of the sound against the picture.

    ``lag_s`` is positive if the sound is late; ``correlation`` in [−1, 1] is that of the two curves at this lag.
    """

    lag_s: float
    correlation: float


def video_peaks_s(motion: NDArray[np.float64], fps_hz: float) -> Times:
    """Times in seconds of the strict local maxima of ``motion`` [T] (pixels), which has one value per frame."""
    return local_maxima(motion) / float(fps_hz)


def published_alignment(audio_peaks_s: Times, video_peaks_s: Times, fps_hz: float) -> Alignment:
    """The published score: hits / (nA + nV − hits + 1e-6), where a hit is an onset a with v − 1/fps < a < v + 1/fps for some v.

    The inequality is strict and computed in float64 exactly as written: an onset at the window's edge is a miss. The range
    is [0, ∞): three onsets around one video peak score 3.
    """
    reach = 1.0 / fps_hz
    audio, video = audio_peaks_s[:, None], video_peaks_s[None, :]
    hits = int(((video - reach < audio) & (audio < video + reach)).any(axis=1).sum())
    union = len(audio_peaks_s) + len(video_peaks_s) - hits
    return Alignment(len(audio_peaks_s), len(video_peaks_s), hits, hits / (union + PUBLISHED_EPS))


def bounded_alignment(audio_peaks_s: Times, video_peaks_s: Times, fps_hz: float) -> Alignment:
    """Intersection over union in [0, 1] of two sets of times under a largest one-to-one matching.

    A pair can match if |a − v| < 1/fps. All windows are equally wide, so matching greedily in the order of time gives a
    matching of the largest size. Swapping the sets does not change the score; equal sets score 1; two empty sets score 0.
    """
    audio, video, reach = np.sort(audio_peaks_s), np.sort(video_peaks_s), 1.0 / fps_hz
    hits = first = second = 0
    while first < len(audio) and second < len(video):
        distance = audio[first] - video[second]
        hits += abs(distance) < reach
        first += distance < reach
        second += distance > -reach
    union = len(audio) + len(video) - hits
    return Alignment(len(audio), len(video), int(hits), hits / union if union else 0.0)


def merge_duplicates(onsets: Onsets, rate_hz: float) -> Times:
    """Times in seconds of the onsets without the detector's duplicates: of frames closer than its 0.03 s, the strongest is kept.

    Frames further apart are different sounds. The gap is at least one frame; the detector rounds it down to none at 16 kHz.
    """
    if not len(onsets.frames):
        return onsets.times_s
    gap = max(1, round(PEAK_WAIT_S * rate_hz / HOP_SAMPLES))
    groups = np.split(onsets.frames, np.flatnonzero(np.diff(onsets.frames) > gap) + 1)
    strongest = [group[int(np.argmax(onsets.strength[group]))] for group in groups]
    return frame_times_s(np.array(strongest, np.int64), rate_hz)


def sound_curve(strength: FloatArray, rate_hz: float, duration_s: float) -> Curve | None:
    """Onset strength [F] as a unit curve of 100 Hz; None if its standard deviation is less than 0.01 dB.

    A click raises three consecutive values of the strength, the first of them on time, so times are shifted to the middle one.
    """
    times_s = (np.arange(len(strength)) - 1) * (HOP_SAMPLES / rate_hz)
    return _unit_curve(times_s, strength, duration_s, MIN_ONSETS_DB)


def motion_curve(motion_px: NDArray[np.float64], fps_hz: float, duration_s: float) -> Curve | None:
    """Motion [T − 1] in pixels between consecutive frames as a unit curve of 100 Hz; None if its standard deviation is below 0.02 px.

    The time of the motion from frame i to i + 1 is (i + ½)/fps. Video compression of a still picture stays below the limit,
    which holds for pictures whose short side is 32 pixels.
    """
    times_s = (np.arange(len(motion_px)) + 0.5) / fps_hz
    return _unit_curve(times_s, motion_px, duration_s, MIN_MOTION_PX)


def _unit_curve(times_s: np.ndarray, values: np.ndarray, duration_s: float, min_spread: float) -> Curve | None:
    """``values`` at ``times_s`` on a grid of 100 Hz, blurred (σ = 0.06 s), with mean 0 and norm 1."""
    if np.std(values) < min_spread:
        return None
    grid_s = (np.arange(round(duration_s * CURVE_HZ)) + 0.5) / CURVE_HZ
    curve = gaussian_filter1d(np.interp(grid_s, times_s, values.astype(np.float64)), CURVE_BLUR_S * CURVE_HZ)
    curve -= curve.mean()
    return curve / np.linalg.norm(curve)


def zero_lag_cosine(sound: Curve, picture: Curve) -> float:
    """Cosine in [−1, 1] of two unit curves [n] without a shift."""
    return float(sound @ picture)


def best_lag(sound: Curve, picture: Curve) -> Lag:
    """The lag at which two unit curves [n] of 100 Hz correlate most, within ±0.7 s, or a third of the clip if that is less.

    In real clips a wider search finds more chance correlations than true ones. Correlations are normalised by the norms of the
    whole curves, so that a short overlap cannot win. The lag is refined below the grid by the parabola through the three values
    around the largest one; a largest value at the end of the range is not refined.
    """
    reach = max(1, int(min(MAX_LAG_S, MAX_LAG_SHARE * len(sound) / CURVE_HZ) * CURVE_HZ))
    middle = len(sound) - 1
    correlation = np.correlate(sound, picture, mode="full")[middle - reach : middle + reach + 1]
    best = int(np.argmax(correlation))
    return Lag((best - reach + _vertex(correlation, best)) / CURVE_HZ, float(correlation[best]))


def _vertex(values: NDArray[np.float64], at: int) -> float:
    """Offset in [−½, ½] of the vertex of the parabola through the values around the largest one, number ``at``; 0 at the ends."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2.0 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
