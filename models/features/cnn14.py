"""PANNs Cnn14 at 16 kHz, the network of FD-PANNs, inception score and KL of av-benchmark and audioldm_eval.

Tensor names of the released ``Cnn14_16k_mAP=0.438.pth``, which holds its transform and mel filters as tables.
Source: Kong et al. 2020, PANNs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avpref.media.sound.mel_filters import periodic_hann, slaney_filters

NUM_CLASSES = 527
NUM_FEATURES = 2048
NUM_MELS = 64
WIDTHS = (64, 128, 256, 512, 1024, 2048)
LOWEST_POWER = 1e-10


class FrontEnd(NamedTuple):
    """Rate, window and hop of the transform, and the range of the mel filters."""

    rate_hz: int
    window_samples: int
    hop_samples: int
    low_hz: float
    high_hz: float


AT_16_KHZ = FrontEnd(16000, 512, 160, 50.0, 8000.0)
AT_32_KHZ = FrontEnd(32000, 1024, 320, 50.0, 14000.0)


class TagsAndFeatures(NamedTuple):
    """Logits of the AudioSet classes [B, 527], and features [B, 2048], not negative."""

    logits: Tensor
    features: Tensor


class Cnn14(nn.Module):
    """Sound float32 [B, S], without its mean → logits and features. S is at least 31 hops."""

    def __init__(self, front_end: FrontEnd = AT_16_KHZ, divisor: int = 1) -> None:
        """``divisor`` of all widths: 1 as published, more for small networks of tests and dry runs."""
        super().__init__()
        widths = [width // divisor for width in WIDTHS]
        self._front_end = front_end
        self.spectrogram_extractor = _Spectrogram(front_end)
        self.logmel_extractor = _MelFilters(front_end)
        self.bn0 = nn.BatchNorm2d(NUM_MELS)
        for number, (channels, width) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            setattr(self, f"conv_block{number}", ConvBlock(channels, width))
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], NUM_CLASSES)

    def forward(self, sound: Tensor) -> TagsAndFeatures:
        """See :class:`TagsAndFeatures`."""
        return self.of_log_mel(self.log_mel(sound))

    def log_mel(self, sound: Tensor) -> Tensor:
        """Mel power in dB [B, F, 64], F = 1 + S // hop."""
        mel = self.spectrogram_extractor(sound) @ self.logmel_extractor.melW
        return 10 * torch.log10(mel.clamp_min(LOWEST_POWER))

    def of_log_mel(self, log_mel: Tensor) -> TagsAndFeatures:
        """Logits and features of :meth:`log_mel`."""
        hidden = self.blocks(log_mel)[-1].mean(3)
        features = torch.relu(self.fc1(hidden.amax(2) + hidden.mean(2)))
        return TagsAndFeatures(self.fc_audioset(features), features)

    def blocks(self, log_mel: Tensor) -> list[Tensor]:
        """Outputs [B, C, F', M'] of the six blocks."""
        hidden = self.bn0(log_mel[:, None].transpose(1, 3)).transpose(1, 3)
        outputs: list[Tensor] = []
        for number in range(1, len(WIDTHS) + 1):
            hidden = getattr(self, f"conv_block{number}")(hidden)
            if number < len(WIDTHS):
                hidden = functional.avg_pool2d(hidden, 2)
            outputs.append(hidden)
        return outputs


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation and ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, F, M] → [B, width, F, M]."""
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(hidden))))))


class _Stft(nn.Module):
    """The windowed transform as two convolutions, so that its tables have the released names."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        size = front_end.window_samples
        angle = -2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size
        for name, table in (("conv_real", np.cos(angle)), ("conv_imag", np.sin(angle))):
            convolution = nn.Conv1d(1, size // 2 + 1, size, front_end.hop_samples, bias=False)
            if not convolution.weight.is_meta:
                windowed = torch.from_numpy((table * periodic_hann(size))[:, None].astype(np.float32))
                convolution.weight = nn.Parameter(windowed, requires_grad=False)
            self.add_module(name, convolution)

    def forward(self, padded: Tensor) -> Tensor:
        """[B, 1, S] → power [B, bins, F]."""
        real, imaginary = self.get_submodule("conv_real"), self.get_submodule("conv_imag")
        return real(padded) ** 2 + imaginary(padded) ** 2


class _Spectrogram(nn.Module):
    """[B, S] → power [B, F, bins]; frames are centred and the ends mirrored."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self._reach = front_end.window_samples // 2
        self.stft = _Stft(front_end)

    def forward(self, sound: Tensor) -> Tensor:
        padded = functional.pad(sound[:, None], (self._reach, self._reach), mode="reflect")
        return self.stft(padded).transpose(1, 2)


class _MelFilters(nn.Module):
    """Slaney's filters [bins, 64]."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        filters = slaney_filters(
            front_end.rate_hz, front_end.window_samples, NUM_MELS, front_end.low_hz, front_end.high_hz
        )
        self.melW = nn.Parameter(torch.from_numpy(filters.T.astype(np.float32)), requires_grad=False)
