"""The spectrogram of AudioCLIP's sound tower: frequency B-spline wavelets with learned centres, widths and orders.

Source: Guzhov et al., "ESResNe(X)t-fbsp" 2021, and the released AudioCLIP.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FFT_SAMPLES = 2048
HOP_SAMPLES = 561
WINDOW_SAMPLES = 1654
NUM_ROWS = FFT_SAMPLES // 2 + 1
NUM_BANDS = 3
"""Thirds of the rows become the three input channels of the network."""
INT16_RANGE = 65535.0
LOWEST_POWER = 1e-18
TINY = 1e-8
BLACKMAN_HARRIS = (0.35875, 0.48829, 0.14128, 0.01168)


class FbspKernels(nn.Module):
    """The wavelets: orders ``m``, widths ``fb`` and centres ``fc``, each [1025]. ``bias`` is empty, as in the released file."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.ones(NUM_ROWS))
        self.fb = nn.Parameter(torch.ones(NUM_ROWS))
        self.fc = nn.Parameter(torch.arange(NUM_ROWS, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(0))

    def forward(self) -> Tensor:
        """Complex kernels as [1025, 2048, 2]: real and imaginary part."""
        time = math.pi * torch.linspace(-1.0, 1.0, FFT_SAMPLES, device=self.m.device, dtype=self.m.dtype) + TINY
        order, width, centre = self.m[:, None], self.fb[:, None], self.fc[:, None]
        argument = width * time / (order + TINY)
        value = torch.sin(argument) / argument
        phase = torch.where(value < 0, math.pi, 0.0) * order
        size = torch.sqrt(width) * value.abs() ** order / math.sqrt(FFT_SAMPLES)
        angle = phase - centre * time
        return torch.stack((size * torch.cos(angle), size * torch.sin(angle)), -1)


def scaled(audio: Tensor) -> Tensor:
    """Audio in [-1, 1], any shape → the tower's input, in float32.

    The published code treats samples as 16-bit integers; on [-1, 1] float32 rounding leaves about 8 bits, which is part of
    the metric.
    """
    return ((audio.float() + 32768.0) * 2.0) / INT16_RANGE - 1.0


def frames_of(samples: Tensor) -> Tensor:
    """[B, S] → [B, F, 1654]: F = 1 + ⌈(S − 1654) / 561⌉ frames (1 for shorter input), zeros added on both sides."""
    missing_samples = samples.shape[-1] - WINDOW_SAMPLES
    num_frames = 1 + max(math.ceil(missing_samples / HOP_SAMPLES), 0)
    total = (num_frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES - samples.shape[-1]
    padded = functional.pad(samples, (total // 2, total - total // 2))
    return padded.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES)


def blackman_harris() -> Tensor:
    """[1654]: periodic four-term window in float32."""
    angle = 2 * math.pi * torch.arange(WINDOW_SAMPLES, dtype=torch.float64) / WINDOW_SAMPLES
    terms = ((-1) ** k * weight * torch.cos(k * angle) for k, weight in enumerate(BLACKMAN_HARRIS))
    return torch.stack(list(terms)).sum(0).float()


def power_image(samples: Tensor, window: Tensor, kernels: Tensor) -> Tensor:
    """Scaled samples [B, S] → power in dB as an image [B, 3, 341, F]; the last two of 1025 rows are left out."""
    side = (FFT_SAMPLES - WINDOW_SAMPLES) // 2
    windowed = functional.pad(frames_of(samples) * window, (side, FFT_SAMPLES - WINDOW_SAMPLES - side))
    real = windowed @ kernels[..., 0].T
    imaginary = windowed @ kernels[..., 1].T
    power = (real**2 + imaginary**2).transpose(1, 2)
    rows = NUM_ROWS // NUM_BANDS * NUM_BANDS
    image = power[:, :rows].unflatten(1, (NUM_BANDS, -1))
    return 10 * torch.log10(torch.where(image > LOWEST_POWER, image, LOWEST_POWER))
