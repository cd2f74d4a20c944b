"""The sound of a clip as speech networks take it: one channel at 16 kHz."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from avpref.media.reading import DecodedClip
from avpref.media.spectra import RATE_HZ, resample


def mono_16k(clip: DecodedClip) -> NDArray[np.float32]:
    """The sound of ``clip``, which has one, resampled to 16 kHz: float32 [S]."""
    assert clip.audio is not None
    return resample(torch.from_numpy(clip.audio.astype(np.float32)), clip.sample_rate_hz, RATE_HZ).numpy()
