"""VGGish without its last ReLU, the network of FD-VGG: 16 kHz sound → 128 values per 0.96 s.

Tensor names of the PyTorch port that av-benchmark and audioldm_eval load. No PCA, no quantisation. Source: Hershey et al. 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avpref.errors import MediaError
from avpref.media.sound.mel_filters import log_scale_filters, periodic_hann

NUM_FEATURES = 128
RATE_HZ = 16000
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 400, 160, 512
NUM_MELS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
PIECE_FRAMES = 96
SHORTEST_SAMPLES = WINDOW_SAMPLES + (PIECE_FRAMES - 1) * HOP_SAMPLES
LAYERS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")


class Vggish(nn.Module):
    """Pieces float32 [P, 96, 64] of :func:`log_mel_pieces` → features [P, 128]."""

    def __init__(self, divisor: int = 1) -> None:
        """``divisor`` of all widths: 1 as published, more for small networks of tests and dry runs."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for layer in LAYERS:
            if isinstance(layer, int):
                width = layer // divisor
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = channels * (PIECE_FRAMES // 16) * (NUM_MELS // 16)
        hidden = 4096 // divisor
        self.embeddings = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, NUM_FEATURES)
        )

    def forward(self, pieces: Tensor) -> Tensor:
        """Features [P, 128]; the map is flattened with channels last."""
        return self.embeddings(self.features(pieces[:, None]).permute(0, 2, 3, 1).flatten(1))


def log_mel_pieces(sound: NDArray[np.floating]) -> Tensor:
    """Sound [S] at 16 kHz without its mean → float32 [P, 96, 64]; the remainder after the last whole piece is dropped.

    Raises MediaError for sound shorter than one piece (0.975 s).
    """
    if len(sound) < SHORTEST_SAMPLES:
        found = f"sound of {len(sound) / RATE_HZ:.3f} s"
        raise MediaError(found, f"at least {SHORTEST_SAMPLES / RATE_HZ:.3f} s for VGGish", "leave the clip out")
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(sound, np.float64), WINDOW_SAMPLES)[::HOP_SAMPLES]
    magnitude = np.abs(np.fft.rfft(frames * periodic_hann(WINDOW_SAMPLES), FFT_SAMPLES))
    filters = log_scale_filters(RATE_HZ, FFT_SAMPLES, NUM_MELS, LOW_HZ, HIGH_HZ, first_bin=1)
    log_mel = np.log(magnitude @ filters.T + LOG_OFFSET)
    pieces = log_mel[: len(log_mel) // PIECE_FRAMES * PIECE_FRAMES].reshape(-1, PIECE_FRAMES, NUM_MELS)
    return torch.from_numpy(pieces.astype(np.float32))
