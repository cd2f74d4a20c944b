"""AV-Align: do sounds begin when the picture moves? The published score, a bounded one, and the delay between the tracks.

The idea is that of G. Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation" (2023):
compare the onsets of the sound with the peaks of the optical flow. :func:`published_alignment` is the score as the JavisBench evaluation
computes it, with its quirks: one moment of the picture may be hit by many onsets, so the score can exceed 1.
:func:`bounded_alignment` counts each moment once.

Peaks are few and brittle, so there is a third way: compare the two curves themselves, as they lie (:func:`zero_lag_cosine`) and shifted
(:func:`best_lag`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from avpref.rewards.signals.motion import fastest_share_px, local_maxima, motion_px, small_flow
from avpref.rewards.signals.onsets import (
    HOP_SAMPLES,
    PEAK_WAIT_S,
    FloatArray,
    Onsets,
    detect_onsets,
    frame_times_s,
    onset_strength,
)

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
    """Moments of both tracks and how many met: ``score`` is hits over the union."""

    num_audio_peaks: int
    num_video_peaks: int
    hits: int
    score: float


@dataclass(frozen=True)
class Lag:
    """``lag_s``: how much later the sound is than the picture; ``correlation``: how alike they are at that lag, in [−1, 1]."""

    lag_s: float
    correlation: float


def video_peaks_s(motion: NDArray[np.float64], fps_hz: float) -> Times:
    """Times of the strict local maxima of the motion [T] (pixels), one value per frame."""
    return local_maxima(motion) / float(fps_hz)


def published_alignment(audio_peaks_s: Times, video_peaks_s: Times, fps_hz: float) -> Alignment:
    """The score as published: hits / (nA + nV − hits + 1e-6), where a hit is an onset a with v − 1/fps < a < v + 1/fps for some v.

    The inequality is strict and computed in float64 exactly as written: ties at the window's edge are misses. Ranges over
    [0, ∞): three onsets around one video peak score 3.
    """
    reach = 1.0 / fps_hz
    audio, video = audio_peaks_s[:, None], video_peaks_s[None, :]
    hits = int(((video - reach < audio) & (audio < video + reach)).any(axis=1).sum())
    union = len(audio_peaks_s) + len(video_peaks_s) - hits
    return Alignment(len(audio_peaks_s), len(video_peaks_s), hits, hits / (union + PUBLISHED_EPS))


def bounded_alignment(audio_peaks_s: Times, video_peaks_s: Times, fps_hz: float) -> Alignment:
    """Intersection over union in [0, 1] of two sets of moments under a largest one-to-one matching.

    A pair may match where |a − v| < 1/fps. Both sets lie on a line and all windows are equally wide, so walking both in order
    and matching whatever can be matched gives a matching of the largest size. Swapping the sets does not change the score; equal
    sets score 1; no moments on either side score 0.
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
    """Times of the onsets with the detector's duplicates merged: of frames closer than its 0.03 s, the strongest stays.

    Frames further apart are different sounds. The gap is at least one frame, which is what the detector forgets at 16 kHz.
    """
    if not len(onsets.frames):
        return onsets.times_s
    gap = max(1, round(PEAK_WAIT_S * rate_hz / HOP_SAMPLES))
    groups = np.split(onsets.frames, np.flatnonzero(np.diff(onsets.frames) > gap) + 1)
    strongest = [group[int(np.argmax(onsets.strength[group]))] for group in groups]
    return frame_times_s(np.array(strongest, np.int64), rate_hz)


def av_align(frames: NDArray[np.uint8], fps_hz: float, audio: FloatArray, rate_hz: float) -> Alignment:
    """Published AV-Align of RGB frames [T, H, W, 3] and a waveform [S]. Raises ValueError for fewer than two frames or no samples."""
    return published_alignment(detect_onsets(audio, rate_hz).times_s, video_peaks_s(motion_px(frames), fps_hz), fps_hz)


def bounded_av_align(frames: NDArray[np.uint8], fps_hz: float, audio: FloatArray, rate_hz: float) -> Alignment:
    """AV-Align in [0, 1]: as :func:`av_align` with duplicates merged and one-to-one matching. Raises ValueError alike."""
    onsets = merge_duplicates(detect_onsets(audio, rate_hz), rate_hz)
    return bounded_alignment(onsets, video_peaks_s(motion_px(frames), fps_hz), fps_hz)


def sound_curve(strength: FloatArray, rate_hz: float, duration_s: float) -> Curve | None:
    """Onset strength [F] as a unit curve; None where it varies by less than 0.01 dB (standard deviation).

    A click raises three values of the strength in a row, the first of them on time, so the middle one is taken as its moment.
    """
    times_s = (np.arange(len(strength)) - 1) * (HOP_SAMPLES / rate_hz)
    return _unit_curve(times_s, strength, duration_s, MIN_ONSETS_DB)


def motion_curve(motion_px: NDArray[np.float64], fps_hz: float, duration_s: float) -> Curve | None:
    """Motion [T − 1] between consecutive frames as a unit curve; None where it varies by less than 0.02 px of 32.

    The motion from frame i to i + 1 belongs to (i + ½)/fps. The limit is above what video compression makes of a still picture.
    """
    times_s = (np.arange(len(motion_px)) + 0.5) / fps_hz
    return _unit_curve(times_s, motion_px, duration_s, MIN_MOTION_PX)


def _unit_curve(times_s: np.ndarray, values: np.ndarray, duration_s: float, min_spread: float) -> Curve | None:
    """Values on a grid of 100 Hz, blurred (σ = 0.06 s), mean 0, norm 1."""
    if np.std(values) < min_spread:
        return None
    grid_s = (np.arange(round(duration_s * CURVE_HZ)) + 0.5) / CURVE_HZ
    curve = gaussian_filter1d(np.interp(grid_s, times_s, values.astype(np.float64)), CURVE_BLUR_S * CURVE_HZ)
    curve -= curve.mean()
    return curve / np.linalg.norm(curve)


def zero_lag_cosine(sound: Curve, picture: Curve) -> float:
    """Cosine in [−1, 1] of two unit curves as they lie."""
    return float(sound @ picture)


def best_lag(sound: Curve, picture: Curve) -> Lag:
    """The lag at which two unit curves [n] of 100 Hz look most alike, searched over ±0.7 s or a third of the clip if that is less.

    A wider search finds more chance likenesses in real clips than true ones. Normalised by the norms of the whole curves, so that
    a short overlap cannot win; refined below the grid by the parabola through the three values around the largest. A largest
    value at the end of the search is reported as it is.
    """
    reach = max(1, int(min(MAX_LAG_S, MAX_LAG_SHARE * len(sound) / CURVE_HZ) * CURVE_HZ))
    middle = len(sound) - 1
    alike = np.correlate(sound, picture, mode="full")[middle - reach : middle + reach + 1]
    best = int(np.argmax(alike))
    return Lag((best - reach + _vertex(alike, best)) / CURVE_HZ, float(alike[best]))


def _vertex(values: NDArray[np.float64], at: int) -> float:
    """Offset in [−½, ½] of the vertex of the parabola through ``values`` around their largest, ``at``; 0 at the ends."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2.0 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0


def lag_of(frames: NDArray[np.uint8], fps_hz: float, audio: FloatArray, rate_hz: float) -> Lag | None:
    """How much later the sound is than the picture, for RGB frames [T, H, W, 3] and a waveform [S]; positive: late sound.

    Compares the onset strength with the speed of the fastest tenth of the picture; None where one of them does not vary. Raises
    ValueError for fewer than two frames or no samples.
    """
    duration_s = len(frames) / fps_hz
    sound = sound_curve(onset_strength(audio, rate_hz), rate_hz, duration_s)
    picture = motion_curve(fastest_share_px(small_flow(frames)), fps_hz, duration_s)
    return None if sound is None or picture is None else best_lag(sound, picture)
