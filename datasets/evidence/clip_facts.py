"""Facts of a clip that do not measure quality: loudness, stillness, brightness, bit rate. numpy only.

Each is one number, computed from the file without a model. The shortcut audit tests whether a fact alone separates chosen
from rejected clips, which training could exploit (see :mod:`avpref.datasets.evidence.shortcuts`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avpref.media.reading import DecodedClip

FLOOR_DB = -120.0
"""Level of digital silence, in place of the logarithm of zero."""
SILENT_DB = -60.0
"""Audio windows below this level are silent."""
WINDOW_S = 0.02
STILL = 1.0 / 255.0
"""Mean difference below which two frames count as equal."""
EVERY_PX = 4
"""Brightness and motion use every fourth pixel of every fourth row."""
WHITE = 255.0


@dataclass(frozen=True)
class ClipFacts:
    """Facts of one clip; None where it lacks the track, or where ``reason`` says why it could not be read.

    ``loudness_db`` and ``peak_db`` are dB of full scale (RMS and largest magnitude), ``silence_share`` the share of 20 ms
    windows below -60 dB; ``motion`` is the mean absolute difference of neighbouring frames and ``brightness`` the mean,
    both in [0, 1]; ``still_share`` is the share of frames that repeat the one before; ``bit_rate_bps`` is the file's size
    over its duration.
    """

    candidate_id: str
    loudness_db: float | None = None
    peak_db: float | None = None
    silence_share: float | None = None
    motion: float | None = None
    still_share: float | None = None
    brightness: float | None = None
    duration_s: float | None = None
    bit_rate_bps: float | None = None
    reason: str = ""


def measure(candidate_id: str, clip: DecodedClip, num_bytes: int) -> ClipFacts:
    """The facts of a decoded clip whose file has ``num_bytes`` bytes."""
    return ClipFacts(
        candidate_id,
        *_sound(clip.audio, clip.sample_rate_hz),
        *_picture(clip.frames),
        duration_s=clip.duration_s,
        bit_rate_bps=8.0 * num_bytes / clip.duration_s,
    )


def _sound(audio: NDArray[np.float32] | None, rate_hz: int) -> tuple[float | None, float | None, float | None]:
    """Loudness, peak and share of silence of sound [S]."""
    if audio is None or not audio.size:
        return None, None, None
    sound = audio.astype(np.float64)
    size = max(1, round(WINDOW_S * rate_hz))
    whole = sound[: max(1, sound.size // size) * size].reshape(-1, min(size, sound.size))
    silent = np.mean([_db(float(np.sqrt(np.mean(window**2)))) < SILENT_DB for window in whole])
    return _db(float(np.sqrt(np.mean(sound**2)))), _db(float(np.abs(sound).max())), float(silent)


def _db(magnitude: float) -> float:
    return max(FLOOR_DB, 20.0 * float(np.log10(magnitude))) if magnitude > 0 else FLOOR_DB


def _picture(frames: NDArray[np.uint8] | None) -> tuple[float | None, float | None, float | None]:
    """Motion, share of still frames and brightness of frames [T, H, W, 3]."""
    if frames is None:
        return None, None, None
    seen = frames[:, ::EVERY_PX, ::EVERY_PX].astype(np.float32) / WHITE
    brightness = float(seen.mean(dtype=np.float64))
    if len(seen) < 2:
        return 0.0, 1.0, brightness
    steps = np.abs(np.diff(seen, axis=0)).mean(axis=(1, 2, 3), dtype=np.float64)
    return float(steps.mean()), float(np.mean(steps < STILL)), brightness
