"""Shift audio against video: for the toy world's defects, for validating scorers, and for rule-made rejected clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def delay_audio(audio: NDArray[np.float32], delay_s: float, sample_rate_hz: int) -> NDArray[np.float32]:
    """Audio [S] shifted by ``delay_s`` seconds (negative: earlier), of the same length, by at most half of it.

    The gap is filled with the quietest segment of that length of ``audio``, so that digital silence does not reveal the shift.
    """
    shift = min(round(abs(delay_s) * sample_rate_hz), len(audio) // 2)
    if shift == 0:
        return audio
    energy = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    quietest = int(np.argmin(energy[shift:] - energy[:-shift]))
    gap = audio[quietest : quietest + shift]
    return np.concatenate([gap, audio[:-shift]] if delay_s > 0 else [audio[shift:], gap])
