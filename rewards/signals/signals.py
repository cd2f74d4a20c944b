"""Signal scorers: five of the metric columns, measured on picture and sound alone, without weights and without the text.

They measure whether a clip is sharp, smooth, clean and in time, not whether it matches its text, so ``text_video`` and
``text_audio`` are missing. The formulas are our own; a test checks that each metric falls with increasing corruption of real
recordings. Every clip also gets AV-Align as JavisBench defines it, as published (``av_align``) and bounded by 1
(``av_align_bounded``); both are stored and shown, and enter no reward. On sound delayed by ±0.25 and ±0.5 s (recordings of a
barking dog and of tennis, 38 windows of 4 s) AV-Align separates late from in time with AUROC 0.53 to 0.62; ``audio_video``, the
cosine of the curves from which AV-Align takes its peaks, with 0.73 to 0.94; ``desync``, the lag of best correlation, with 0.83 to 0.91.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from avpref.domain import METRIC_BY_NAME, OWN_TERMS, PICTURE_AND_SOUND, Dimension, Metric, Score, Terms
from avpref.identity import digest
from avpref.media.reading import DecodedClip
from avpref.rewards.protocol import ScorableClip, measured, skipped
from avpref.rewards.signals.av_align import (
    Curve,
    best_lag,
    bounded_alignment,
    merge_duplicates,
    motion_curve,
    published_alignment,
    sound_curve,
    video_peaks_s,
    zero_lag_cosine,
)
from avpref.rewards.signals.motion import fastest_share_px, grey_frames, motion_px, small_flow
from avpref.rewards.signals.onsets import (
    FFT_SAMPLES,
    FloatArray,
    detect_onsets,
    hann_window,
    mel_power,
    onset_strength_from_mel,
)
from avpref.rewards.validity import ValidityRules, skip_reason

NUM_PICTURES = 8
LARGEST_SIDE_PX = 256
BLUR_PX = 1.0
BLOCK_PX = 8
QUIET_BLOCKS_PERCENT = 10.0
GREY_FLOOR = 4.0
GRADIENT_FLOOR = 0.05
MOTION_FLOOR_PX2 = 0.003
SIGNAL_PERCENT, FLOOR_PERCENT = 95.0, 10.0
AUDIO_FLOOR = 1e-4
FLAT_LEVEL, FLAT_SHARE = 0.98, 1e-3
VERSION = 4

SIGNAL_METRICS = (
    *(replace(METRIC_BY_NAME[name], unit="dB") for name in ("visual_quality", "motion_quality", "audio_quality")),
    *(METRIC_BY_NAME[name] for name in ("audio_video", "desync")),
)
DIAGNOSTICS = (
    Metric("av_align", "hits per peak", True, Dimension.AV, PICTURE_AND_SOUND),
    Metric("av_align_bounded", "hits per peak", True, Dimension.AV, PICTURE_AND_SOUND),
)
"""Metrics that are stored beside the scores and enter no reward."""
SIGNAL_RULES = ValidityRules(min_frames=3)
NO_MOTION = "the picture does not move"
NO_ONSET = "the sound has no onset"

_NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6.0
_GRADIENT_GAIN = 0.0409
"""Mean squared gradient of white noise of power 1 after the Gaussian of BLUR_PX."""


def sharpness_db(frames: NDArray[np.uint8]) -> float:
    """Sharpness against noise of RGB frames [T, H, W, 3], in dB: 10·log10(G / (σ² + 4²)), grey levels of 255.

    G is the mean squared gradient per pixel of the picture denoised by a Gaussian (σ = 1 px), less the gradient of noise alone,
    at least 0.05. σ² is the noise power: squared second differences in both directions of the picture (J. Immerkær, "Fast Noise
    Variance Estimation", 1996) or along time, whichever is larger, averaged over blocks of 8 × 8 pixels. The 10th percentile over
    blocks is used, because noise is everywhere while texture and motion are not. Coarse noise is visible only along time. The 4
    grey levels keep fine texture from being taken for noise, so that blur lowers the number too. G and σ² are means over up to
    eight evenly spaced frames, each with its neighbours; pictures with a short side over 256 pixels are shrunk to 256. Needs three
    frames.
    """
    middle = np.linspace(1, len(frames) - 2, min(NUM_PICTURES, len(frames) - 2)).round().astype(int)
    triples = [np.stack([_within_limit(grey) for grey in grey_frames(frames[k - 1 : k + 2])]) for k in middle]
    gradient, noise = np.array([_gradient_and_noise(triple.astype(np.float32)) for triple in triples]).mean(axis=0)
    return float(10.0 * np.log10(max(gradient - _GRADIENT_GAIN * noise, GRADIENT_FLOOR) / (noise + GREY_FLOOR**2)))


def _within_limit(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = LARGEST_SIDE_PX / min(grey.shape)
    return grey if scale >= 1 else np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def _gradient_and_noise(triple: NDArray[np.float32]) -> tuple[float, float]:
    """Mean squared gradient of the denoised middle frame of [3, H, W] and its noise power, both in grey levels squared."""
    before, grey, after = triple
    across_space = _quietest(np.asarray(cv2.filter2D(grey, -1, _NOISE_MASK), np.float32))
    noise = max(across_space, _quietest((before - 2 * grey + after) / np.float32(np.sqrt(6))))
    smooth = cv2.GaussianBlur(grey, (0, 0), BLUR_PX)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, dx, dy, ksize=3, scale=0.125) for dx, dy in ((1, 0), (0, 1)))
    return float(np.mean(across**2 + down**2)), noise


def _quietest(residual: NDArray[np.float32]) -> float:
    """10th percentile of the mean squares of a residual [H, W] in its blocks."""
    blocks = max(1, residual.shape[1] // BLOCK_PX), max(1, residual.shape[0] // BLOCK_PX)
    powers = cv2.resize(residual**2, blocks, interpolation=cv2.INTER_AREA)
    return float(np.percentile(powers, QUIET_BLOCKS_PERCENT))


def smoothness_db(flow: NDArray[np.float32]) -> float:
    """Smoothness in time of flow fields [T − 1, h, w, 2], in dB: energy of the motion over energy of its change.

    10·log10((⟨|f|²⟩ + ε/3) / (⟨|f' − f|²⟩ + ε)), ε = 0.003 px², f' the next field. Steady motion scores high. The change of
    positions that jump at random has three times the energy of their motion: −4.8 dB. The floor has the same ratio, so a frozen
    picture scores −4.8 dB as well. Needs three frames, that is two fields.
    """
    energy, change = (
        np.mean(np.sum(field.astype(np.float64) ** 2, axis=-1)) for field in (flow, np.diff(flow, axis=0))
    )
    return float(10.0 * np.log10((energy + MOTION_FLOOR_PX2 / 3.0) / (change + MOTION_FLOOR_PX2)))


def signal_to_floor_db(audio: FloatArray, rate_hz: int, power: FloatArray) -> float:
    """Loudness of the sound over its noise floor, in dB, less a penalty for clipping.

    ``power`` is the mel power [128, F] of the waveform [S]. Loudness: the 95th percentile in time of the mean over bands. Floor:
    the 10th percentile in time of each band, median over bands. White noise of −80 dB full scale is added to both, so digital
    silence gives a very high ratio, not an infinite one. Penalty: 10·log10(1 + share / 0.001), where share is
    :func:`flat_share`: a share of 0.1 % costs 3 dB.
    """
    hiss = AUDIO_FLOOR**2 * float(np.sum(hann_window() ** 2)) * FFT_SAMPLES / rate_hz
    loud = float(np.percentile(power.mean(axis=0), SIGNAL_PERCENT))
    floor = float(np.median(np.percentile(power, FLOOR_PERCENT, axis=1)))
    return float(
        10.0 * np.log10((loud + hiss) / (floor + hiss)) - 10.0 * np.log10(1.0 + flat_share(audio) / FLAT_SHARE)
    )


def flat_share(audio: FloatArray) -> float:
    """Share of neighbouring samples of the waveform [S] that both lie within 2 % of its largest magnitude, on one side."""
    extreme = FLAT_LEVEL * float(np.abs(audio).max())
    return float(max(np.mean(side[1:] & side[:-1]) for side in (audio >= extreme, audio <= -extreme)))


@dataclass(frozen=True)
class SignalScorer:
    """Fills :data:`SIGNAL_METRICS` and :data:`DIAGNOSTICS` from picture and sound alone; see :class:`avpref.rewards.protocol.Scorer`.

    ``visual_quality``, ``motion_quality`` and ``audio_quality`` are in decibels (:func:`sharpness_db`, :func:`smoothness_db`,
    :func:`signal_to_floor_db`). ``audio_video`` is the cosine in [−1, 1] of onset curve and motion curve; ``desync`` is the
    magnitude in seconds of their best lag, at most 0.7 s or a third of the clip. These two and AV-Align are skipped if a curve
    is constant: the picture does not move, or the sound does not change.
    """

    metrics: tuple[Metric, ...] = SIGNAL_METRICS + DIAGNOSTICS
    rules: ValidityRules = SIGNAL_RULES
    terms: Terms = OWN_TERMS

    @property
    def fingerprint(self) -> str:
        """Hash of this file's version, of OpenCV's, and of the validity rules."""
        return digest("signal scorer", VERSION, cv2.__version__, repr(self.rules))

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`. An array of frames that several clips share is measured once."""
        cache: dict[tuple[int, float, float], _PictureMeasurements] = {}
        return [self._scores(clip, _picture_measurements(clip.clip, cache)) for clip in clips]

    def _scores(self, clip: ScorableClip, frames: _PictureMeasurements | None) -> list[Score]:
        reasons = {str(dimension): skip_reason(clip.clip, dimension, self.rules) for dimension in Dimension}
        values: dict[str, float] = {}
        picture = sound = None
        if not reasons[Dimension.VIDEO]:
            assert frames is not None
            values["visual_quality"], values["motion_quality"] = frames.sharpness_db, frames.smoothness_db
            picture = frames.curve
        if not reasons[Dimension.AUDIO]:
            sound = _measure_sound(clip.clip, values)
        if not reasons[Dimension.AV]:
            reasons[Dimension.AV] = NO_MOTION if picture is None else NO_ONSET if sound is None else ""
        if not reasons[Dimension.AV]:
            assert picture is not None and sound is not None and frames is not None
            values["audio_video"] = zero_lag_cosine(sound, picture)
            values["desync"] = abs(best_lag(sound, picture).lag_s)
            _measure_alignment(clip.clip, frames.peaks_s, values)
        return [
            skipped(clip.candidate_id, metric, reasons[metric.dimension])
            if reasons[metric.dimension]
            else measured(clip.candidate_id, metric, values[metric.name])
            for metric in self.metrics
        ]


@dataclass(frozen=True, eq=False)
class _PictureMeasurements:
    """Measurements of frames [T, H, W, 3], each computed at its first use."""

    frames: NDArray[np.uint8]
    fps_hz: float
    duration_s: float

    @cached_property
    def sharpness_db(self) -> float:
        return sharpness_db(self.frames)

    @cached_property
    def smoothness_db(self) -> float:
        return smoothness_db(self._flow)

    @cached_property
    def curve(self) -> Curve | None:
        """The motion curve of 100 Hz; None for a still picture."""
        return motion_curve(fastest_share_px(self._flow), self.fps_hz, self.duration_s)

    @cached_property
    def peaks_s(self) -> NDArray[np.float64]:
        """Times of the motion peaks of AV-Align."""
        return video_peaks_s(motion_px(self.frames), self.fps_hz)

    @cached_property
    def _flow(self) -> NDArray[np.float32]:
        return small_flow(self.frames)


def _picture_measurements(
    clip: DecodedClip, cache: dict[tuple[int, float, float], _PictureMeasurements]
) -> _PictureMeasurements | None:
    """The measurements of the clip's frames, from ``cache`` if it has the same array; None without a picture."""
    if clip.frames is None:
        return None
    key = (id(clip.frames), clip.fps_hz, clip.duration_s)
    return cache.setdefault(key, _PictureMeasurements(clip.frames, clip.fps_hz, clip.duration_s))


def _measure_sound(clip: DecodedClip, values: dict[str, float]) -> Curve | None:
    """Add the audio metric to ``values``; returns the onset curve, None for a steady sound."""
    assert clip.audio is not None
    power = mel_power(clip.audio, clip.sample_rate_hz)
    values["audio_quality"] = signal_to_floor_db(clip.audio, clip.sample_rate_hz, power)
    return sound_curve(onset_strength_from_mel(power), clip.sample_rate_hz, clip.duration_s)


def _measure_alignment(clip: DecodedClip, motion_peaks_s: NDArray[np.float64], values: dict[str, float]) -> None:
    """Add both forms of AV-Align to ``values``; ``motion_peaks_s`` are the times of the motion peaks."""
    assert clip.audio is not None
    onsets = detect_onsets(clip.audio, clip.sample_rate_hz)
    values["av_align"] = published_alignment(onsets.times_s, motion_peaks_s, clip.fps_hz).score
    values["av_align_bounded"] = bounded_alignment(
        merge_duplicates(onsets, clip.sample_rate_hz), motion_peaks_s, clip.fps_hz
    ).score


def signal_scorers() -> tuple[SignalScorer, ...]:
    """The scorers that measure signals; they need no weights."""
    return (SignalScorer(),)
