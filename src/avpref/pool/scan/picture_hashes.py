"""Perceptual hashes of pictures at fixed times: 64 bits that say where a picture becomes darker to the right.

The picture is reduced to 8 rows of 9 grey values by area averaging; bit 8·row + column is set where a value is larger than its right
neighbour (difference hash). Re-encoding and scaling change few bits. A picture with little contrast has no hash.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

EVERY_S = 0.5
"""Seconds between two hashes of a recording."""
ROWS, COLUMNS = 8, 9
MIN_CONTRAST = 4.0
"""Least standard deviation of the 72 grey values, in levels of 255."""
SLACK_S = 0.0015
_WEIGHTS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))


def picture_hash(grey: NDArray[np.uint8]) -> int | None:
    """The hash of luma [H, W] as a signed 64-bit number; None for a picture with little contrast."""
    small = cv2.resize(grey, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA).astype(np.float32)
    if float(small.std()) < MIN_CONTRAST:
        return None
    bits = (small[:, :-1] > small[:, 1:]).reshape(-1)
    return int(_WEIGHTS[bits].sum(dtype=np.uint64).astype(np.int64)) if bits.any() else 0


def differing_bits(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Number of differing bits of two arrays of hashes of one shape."""
    return np.bitwise_count(np.bitwise_xor(first, second).view(np.uint64))


class HashedPictures:
    """Collects the hash of the picture that is shown at each multiple of :data:`EVERY_S`."""

    def __init__(self) -> None:
        self.hashes: list[int] = []
        self.slots: list[int] = []
        self._shown: NDArray[np.uint8] | None = None
        self._next_slot = 0

    def add(self, time_s: float, grey: NDArray[np.uint8]) -> None:
        """Take the picture that is shown from ``time_s`` seconds on; the first one also serves earlier times."""
        if self._shown is not None:
            self._hash_until(time_s - SLACK_S)
        self._shown = grey

    def finish(self, end_s: float) -> None:
        """The last picture is shown until ``end_s``."""
        self._hash_until(end_s - SLACK_S)

    def _hash_until(self, time_s: float) -> None:
        value, is_hashed = None, False
        while self._next_slot * EVERY_S < time_s:
            assert self._shown is not None
            if not is_hashed:
                value, is_hashed = picture_hash(self._shown), True
            if value is not None:
                self.hashes.append(value)
                self.slots.append(self._next_slot)
            self._next_slot += 1
