"""Sound at another speed and its own pitch: overlapping pieces, each from where the waveform fits best. numpy only.

After W. Verhelst and M. Roelands, "An overlap-add technique based on waveform similarity (WSOLA) for high quality time-scale
modification of speech" (1993).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PIECE_S = 0.05
REACH_S = 0.01
"""How far from its place a piece may be taken."""


def change_speed(sound: NDArray[np.float32], speed: float, rate_hz: int) -> NDArray[np.float32]:
    """``sound`` [C, S] played ``speed`` times as fast: [C, round(S / speed)], the same pitch.

    Pieces of 0.05 s are laid half over one another under a window whose halves add up to 1; each is taken within 0.01 s of where it
    should be, at the place where it is most like what followed the piece before. All channels move together.
    """
    num_out = round(sound.shape[1] / speed)
    hop, reach = max(1, round(PIECE_S * rate_hz / 2)), round(REACH_S * rate_hz)
    size, before = 2 * hop, hop + reach
    padded = np.pad(sound, ((0, 0), (before, before + 2 * size)))
    mono = padded.mean(axis=0)
    window = (0.5 - 0.5 * np.cos(np.pi * np.arange(size) / hop)).astype(np.float32)
    made = np.zeros((len(sound), num_out + 2 * size), np.float32)
    taken = before - hop
    for piece in range(num_out // hop + 2):
        wanted = before + round((piece - 1) * hop * speed) if piece else taken
        if piece:
            taken = _likest(mono, taken + hop, wanted, size, reach)
        made[:, piece * hop : piece * hop + size] += window * padded[:, taken : taken + size]
    return made[:, hop : hop + num_out]


def _likest(mono: NDArray[np.float32], after: int, wanted: int, size: int, reach: int) -> int:
    """The start within ``reach`` of ``wanted`` at which ``size`` samples are most like those at ``after``."""
    last = len(mono) - size
    low, high = max(0, min(wanted - reach, last)), min(wanted + reach, last)
    after = min(after, last)
    alike = np.correlate(mono[low : high + size], mono[after : after + size], mode="valid")
    return low + int(np.argmax(alike))
