"""CAVP, the network of JavisBench's CAVP score: pictures at 4 per second and a spectrogram → unit vectors of 512 values.

Tensor names of the released checkpoint of Diff-Foley without the prefix ``module.``. Source: Luo et al. 2023, Diff-Foley.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from avpref.media.sound.mel_filters import periodic_hann, slaney_filters
from avpref.models.features.cnn14 import WIDTHS, ConvBlock

NUM_FEATURES = 512
RATE_HZ, FFT_SAMPLES, HOP_SAMPLES = 16000, 1024, 250
NUM_MELS, LOW_HZ, HIGH_HZ = 128, 125.0, 7600.0
LOWEST_MAGNITUDE = 1e-5
DEPTHS = (3, 4, 6, 3)
TEMPORAL_FROM = 2
"""Stages from this index on have first convolutions over 3 time steps."""
POOLS = ((2, 2), (2, 2), (2, 2), (2, 2), (1, 2), (1, 1))


class Cavp(nn.Module):
    """Both encoders; ``logit_scale`` belongs to the released file and is not used."""

    def __init__(self, divisor: int = 1) -> None:
        """``divisor`` of all widths: 1 as published, more for small networks of tests and dry runs."""
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.video_encoder = SlowOnly(divisor)
        self.video_project_head = nn.Linear(2048 // divisor, NUM_FEATURES)
        self.spec_encoder = SpectrogramEncoder(divisor)

    def video_features(self, video: Tensor) -> Tensor:
        """Pictures float32 [B, 3, T, H, W] in [0, 1] → unit vectors [B, T, 512]."""
        return functional.normalize(self.video_features_before_norm(video), dim=-1)

    def video_features_before_norm(self, video: Tensor) -> Tensor:
        """As :meth:`video_features`, not normalised."""
        return self.video_project_head(self.video_encoder(video).mean((3, 4)).transpose(1, 2))

    def sound_features(self, image: Tensor) -> Tensor:
        """Spectrogram [B, 128, F] of :func:`spectrogram` → unit vectors [B, F // 16, 512]."""
        return functional.normalize(self.spec_encoder(image), dim=-1)


class SlowOnly(nn.Module):
    """SlowOnly ResNet-50: [B, 3, T, H, W] → [B, 2048, T, H / 32, W / 32]."""

    def __init__(self, divisor: int = 1) -> None:
        super().__init__()
        channels = 64 // divisor
        self.conv1 = _ConvModule(3, channels, (1, 7, 7), (1, 2, 2))
        for index, depth in enumerate(DEPTHS):
            planes, stride = 64 // divisor * 2**index, 1 if index == 0 else 2
            depth_s = 3 if index >= TEMPORAL_FROM else 1
            blocks = [_Bottleneck(channels, planes, stride, depth_s)]
            channels = 4 * planes
            blocks += [_Bottleneck(channels, planes, 1, depth_s) for _ in range(depth - 1)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))

    def forward(self, video: Tensor) -> Tensor:
        """The last stage."""
        return self.stages(video)[-1]

    def stages(self, video: Tensor) -> list[Tensor]:
        """Outputs of the first convolution (before its pool) and of the four stages."""
        outputs = [self.conv1(video)]
        hidden = functional.max_pool3d(outputs[0], (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for index in range(len(DEPTHS)):
            hidden = getattr(self, f"layer{index + 1}")(hidden)
            outputs.append(hidden)
        return outputs


class _ConvModule(nn.Module):
    """Convolution, batch normalisation and, unless it ends a residual branch, ReLU."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        *,
        is_last: bool = False,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(out)
        self._is_last = is_last

    def forward(self, hidden: Tensor) -> Tensor:
        normalised = self.bn(self.conv(hidden))
        return normalised if self._is_last else torch.relu(normalised)


class _Bottleneck(nn.Module):
    """1×1 (over ``depth`` time steps), 3×3 with the stride, 1×1, and the shortcut."""

    def __init__(self, channels: int, planes: int, stride: int, depth: int) -> None:
        super().__init__()
        out, step = 4 * planes, (1, stride, stride)
        self.conv1 = _ConvModule(channels, planes, (depth, 1, 1))
        self.conv2 = _ConvModule(planes, planes, (1, 3, 3), step)
        self.conv3 = _ConvModule(planes, out, (1, 1, 1), is_last=True)
        is_same = stride == 1 and channels == out
        self.downsample = None if is_same else _ConvModule(channels, out, (1, 1, 1), step, is_last=True)

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        return torch.relu(self.conv3(self.conv2(self.conv1(hidden))) + shortcut)


class SpectrogramEncoder(nn.Module):
    """[B, 128, F] → [B, F // 16, 512]. ``fc1`` is applied twice, as published."""

    def __init__(self, divisor: int = 1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(NUM_MELS)
        widths = [width // divisor for width in WIDTHS]
        for number, (channels, width) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            setattr(self, f"conv_block{number}", ConvBlock(channels, width))
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.final_project = nn.Linear(widths[-1], NUM_FEATURES)

    def forward(self, image: Tensor) -> Tensor:
        """Features before normalisation."""
        hidden = self.bn(image.transpose(1, 2)[:, None].transpose(1, 3)).transpose(1, 3)
        for number, pool in enumerate(POOLS, start=1):
            hidden = functional.avg_pool2d(getattr(self, f"conv_block{number}")(hidden), pool)
        steps = hidden.mean(3)
        pooled = functional.max_pool1d(steps, 3, 1, 1) + functional.avg_pool1d(steps, 3, 1, 1)
        features = torch.relu(self.fc1(pooled.transpose(1, 2)))
        return self.final_project(torch.relu(self.fc1(features)))


def spectrogram(sound: NDArray[np.floating], seconds: int) -> Tensor:
    """Sound [S] at 16 kHz → float32 [128, 64 · seconds] in [0, 1]: cut or padded with zeros, the last sample dropped."""
    whole = np.zeros(RATE_HZ * seconds)
    whole[: min(len(sound), len(whole))] = sound[: len(whole)]
    reach = FFT_SAMPLES // 2
    padded = np.pad(whole[:-1], reach)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]
    magnitude = np.abs(np.fft.rfft(frames * periodic_hann(FFT_SAMPLES)))
    mel = slaney_filters(RATE_HZ, FFT_SAMPLES, NUM_MELS, LOW_HZ, HIGH_HZ) @ magnitude.T
    decibels = 20 * np.log10(np.maximum(mel, LOWEST_MAGNITUDE)) - 20
    return torch.from_numpy(np.clip((decibels + 100) / 100, 0, 1).astype(np.float32))
