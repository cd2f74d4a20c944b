"""Tone mapping of high dynamic range (PQ and HLG of BT.2100) to the standard range. numpy only.

A pixel becomes light in cd/m² (BT.2100), relative to the reference white of 203 cd/m² (ITU-R BT.2408), in the primaries of
BT.709. Its largest component is compressed by a Möbius curve, which leaves light up to 0.7 of the reference white as it is and
bends smoothly so that 1000 cd/m² becomes the brightest value; the other components keep their ratio to it, and so the hue. The
result is encoded with the curve of sRGB.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

REFERENCE_WHITE, PEAK = 203.0, 1000.0
KNEE = 0.7
"""Share of the reference white up to which light is not compressed."""
METHOD = "Möbius curve over the largest component, knee 0.7, 203 cd/m² reference white, 1000 cd/m² peak"
LEVELS = 1 << 16
OUTPUT_LEVELS = 1 << 12

_M1, _M2 = 2610 / 16384, 2523 / 32
_C1, _C2, _C3 = 3424 / 4096, 2413 / 128, 2392 / 128
_HLG_A, _HLG_B, _HLG_C, _HLG_GAMMA = 0.17883277, 0.28466892, 0.55991073, 1.2
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)

FloatArray = NDArray[np.float32]


def tone_mapped(pixels: NDArray[np.uint16], curve: str, has_wide_primaries: bool) -> NDArray[np.uint8]:
    """RGB uint16 [H, W, 3] of ``curve`` (``PQ`` or ``HLG``) as RGB uint8 [H, W, 3] of BT.709 with the curve of sRGB."""
    light = _light(curve)[pixels]
    if curve == "HLG":
        luminance = light @ _LUMINANCE
        light *= np.power(np.maximum(luminance, 1e-6), _HLG_GAMMA - 1.0)[..., None] * (PEAK / REFERENCE_WHITE)
    if has_wide_primaries:
        light = light @ _BT2020_TO_BT709.T
    largest = np.maximum(light.max(axis=-1), 1e-6)
    light *= (_compressed(largest) / largest)[..., None]
    index = np.rint(np.clip(light, 0.0, 1.0) * (OUTPUT_LEVELS - 1)).astype(np.uint16)
    return _encoded()[index]


@lru_cache(maxsize=2)
def _light(curve: str) -> FloatArray:
    """Light of each of the 65,536 levels: PQ relative to the reference white, HLG as light of the scene in [0, 1]."""
    signal = np.arange(LEVELS) / (LEVELS - 1)
    if curve == "PQ":
        root = signal ** (1 / _M2)
        nits = 10_000.0 * (np.maximum(root - _C1, 0.0) / (_C2 - _C3 * root)) ** (1 / _M1)
        return (nits / REFERENCE_WHITE).astype(np.float32)
    low, high = np.square(signal) / 3.0, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12.0
    return np.where(signal <= 0.5, low, high).astype(np.float32)


def _compressed(light: FloatArray) -> FloatArray:
    """The Möbius curve: the identity up to the knee, then bent so that the peak becomes 1."""
    peak = PEAK / REFERENCE_WHITE
    a = -(KNEE**2) * (peak - 1) / (KNEE**2 - 2 * KNEE + peak)
    b = (KNEE**2 - 2 * KNEE * peak + peak) / (peak - 1)
    scale = (b * b + 2 * b * KNEE + KNEE**2) / (b - a)
    return np.where(light <= KNEE, light, scale * (light + a) / (light + b)).astype(np.float32)


@lru_cache(maxsize=1)
def _encoded() -> NDArray[np.uint8]:
    """Bytes of sRGB for :data:`OUTPUT_LEVELS` levels of light in [0, 1]."""
    light = np.arange(OUTPUT_LEVELS) / (OUTPUT_LEVELS - 1)
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.power(light, 1 / 2.4) - 0.055)
    return np.rint(255.0 * signal).astype(np.uint8)
