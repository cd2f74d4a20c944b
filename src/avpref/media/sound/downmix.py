"""Downmix of channels to mono with the coefficients of ITU-R BS.775-4: the centre is kept and low-frequency effects are left out.

The coefficients are scaled to a sum of 1, so that mono and stereo give their mean. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]
"""Samples [C, S], full scale 1."""

_FRONT, _CENTRE, _SURROUND = 2**-0.5, 1.0, 0.5
COEFFICIENTS = {
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "WL", "WR", "DL", "DR"), _FRONT),
    **dict.fromkeys(("FC", "TFC", "BFC"), _CENTRE),
    **dict.fromkeys(("BL", "BR", "SL", "SR", "SDL", "SDR", "SSL", "SSR"), _SURROUND),
    **dict.fromkeys(("TFL", "TFR", "TBL", "TBR", "TSL", "TSR", "TTL", "TTR", "BFL", "BFR"), _SURROUND),
    **dict.fromkeys(("BC", "TC", "TBC"), 2**-0.5),
    **dict.fromkeys(("LFE", "LFE2"), 0.0),
    "AMBI0": 1.0,
}
"""Coefficient of each channel, by FFmpeg's name. A single surround has that of BS.775 for mono surround; other channels behind, at
the sides and above have that of the surrounds. Of ambisonic sound only the omnidirectional component is heard."""
USUAL_ORDER = {
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
"""Channels of files that do not name them: 5.1 and 7.1 have one usual order, other numbers have several."""
MIN_KEPT_ENERGY = 0.1
"""Energy of a mix below which its channels cancel, relative to that of channels that have nothing in common."""


def mono_weights(names: Sequence[str]) -> tuple[float, ...]:
    """The weight of each channel in the mono mix, with sum 1; ``names`` are FFmpeg's names of the channels.

    Channels without names (NONE, UNK) have those of :data:`USUAL_ORDER`. Where there is no usual order, or all known channels are
    left out, all weights are equal.
    """
    is_named = all(name in COEFFICIENTS or name.startswith("AMBI") for name in names)
    known = names if is_named else USUAL_ORDER.get(len(names), ())
    coefficients = [COEFFICIENTS.get(name, 0.0) for name in known]
    total = sum(coefficients)
    if not total:
        return (1.0 / len(names),) * len(names)
    return tuple(coefficient / total for coefficient in coefficients)


def mix(channels: Sound, weights: Sequence[float]) -> Sound:
    """The weighted sum [S] of ``channels`` [C, S]; equal weights (or none) give the mean."""
    if len(set(weights)) <= 1:
        return channels.mean(axis=0)
    return np.asarray(weights, np.float32) @ channels


def audible_weights(channels: Sound, weights: Sequence[float]) -> tuple[float, ...]:
    """``weights``, or weight 1 for the loudest channel where the mix cancels (stereo in opposite phase).

    The mix of C channels cancels if its energy is below :data:`MIN_KEPT_ENERGY` times the sum of the weighted channels' energies:
    for stereo, if the correlation of the channels is below −0.9.
    """
    powers = np.square(channels, dtype=np.float64).mean(axis=1) if channels.size else np.zeros(len(channels))
    heard = np.square(weights) * powers
    mixed = mix(channels, weights)
    power = float(np.square(mixed, dtype=np.float64).mean()) if mixed.size else 0.0
    if not heard.any() or power >= MIN_KEPT_ENERGY * float(heard.sum()):
        return tuple(weights)
    loudest = int(np.argmax(heard))
    return tuple(1.0 if channel == loudest else 0.0 for channel in range(len(channels)))
