"""Sound moved against its picture: the toy world's defect, the scorers' ladder and the trainer's rule-made negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def delay_audio(audio: NDArray[np.float32], delay_s: float, sample_rate_hz: int) -> NDArray[np.float32]:
    """The sound [S] ``delay_s`` later (earlier if negative), same length, by half of it at most.

    The gap is filled with the sound's own quietest stretch of that length, so that no digital silence gives the shift away.
    """
    shift = min(round(abs(delay_s) * sample_rate_hz), len(audio) // 2)
    if shift == 0:
        return audio
    energy = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    quietest = int(np.argmin(energy[shift:] - energy[:-shift]))
    gap = audio[quietest : quietest + shift]
    return np.concatenate([gap, audio[:-shift]] if delay_s > 0 else [audio[shift:], gap])
