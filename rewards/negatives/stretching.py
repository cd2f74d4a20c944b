"""Time-scale modification: sound at another speed and equal pitch, by overlap-add of similar pieces (WSOLA). numpy only.

After W. Verhelst and M. Roelands, "An overlap-add technique based on waveform similarity (WSOLA) for high quality time-scale
modification of speech" (1993).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PIECE_S = 0.05
REACH_S = 0.01
"""Largest distance between the nominal and the actual start of a piece in the input."""


def change_speed(sound: NDArray[np.float32], speed: float, rate_hz: int) -> NDArray[np.float32]:
    """``sound`` [C, S] played ``speed`` times as fast: [C, round(S / speed)], the same pitch.

    Pieces of 0.05 s overlap by half under a window whose halves sum to 1. Each piece starts within 0.01 s of its nominal position,
    where it correlates most with the continuation of the piece before. All channels use the same positions.
    """
    num_out = round(sound.shape[1] / speed)
    hop, reach = max(1, round(PIECE_S * rate_hz / 2)), round(REACH_S * rate_hz)
    size, before = 2 * hop, hop + reach
    padded = np.pad(sound, ((0, 0), (before, before + 2 * size)))
    mono = padded.mean(axis=0)
    window = (0.5 - 0.5 * np.cos(np.pi * np.arange(size) / hop)).astype(np.float32)
    output = np.zeros((len(sound), num_out + 2 * size), np.float32)
    start = before - hop
    for piece in range(num_out // hop + 2):
        if piece:
            nominal = before + round((piece - 1) * hop * speed)
            start = _most_similar_start(mono, start + hop, nominal, size, reach)
        output[:, piece * hop : piece * hop + size] += window * padded[:, start : start + size]
    return output[:, hop : hop + num_out]


def _most_similar_start(mono: NDArray[np.float32], continuation: int, nominal: int, size: int, reach: int) -> int:
    """The start within ``reach`` of ``nominal`` at which ``size`` samples correlate most with those from ``continuation``."""
    last = len(mono) - size
    low, high = max(0, min(nominal - reach, last)), min(nominal + reach, last)
    continuation = min(continuation, last)
    correlation = np.correlate(mono[low : high + size], mono[continuation : continuation + size], mode="valid")
    return low + int(np.argmax(correlation))
