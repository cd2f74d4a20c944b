"""Shift audio against video: for the toy world's defects, for validating scorers, and for rule-made rejected clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def delay_audio(audio: NDArray[np.float32], delay_s: float, sample_rate_hz: int) -> NDArray[np.float32]:
    """Audio [S] or [C, S] shifted by ``delay_s`` seconds (negative: earlier), of the same length, by at most half of it.

    The gap is filled with the quietest segment of that length of ``audio``, so that digital silence does not reveal the shift. All
    channels share that segment.
    """
    shift = min(round(abs(delay_s) * sample_rate_hz), audio.shape[-1] // 2)
    if shift == 0:
        return audio
    power = np.square(audio, dtype=np.float64)
    energy = np.concatenate([[0.0], np.cumsum(power if audio.ndim == 1 else power.sum(axis=0))])
    quietest = int(np.argmin(energy[shift:] - energy[:-shift]))
    gap = audio[..., quietest : quietest + shift]
    parts = [gap, audio[..., :-shift]] if delay_s > 0 else [audio[..., shift:], gap]
    return np.concatenate(parts, axis=-1)
