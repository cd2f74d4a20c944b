"""AudioCLIP's sound tower (ESResNeXt-FBSP), the network of JavisBench's FAD: 16 kHz sound → 1024 values, not normalised.

Tensor names are those of the released file below ``audio.``. Source: Guzhov et al. 2021, AudioCLIP v0.1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpref.models.features.fbsp import FbspKernels, blackman_harris, power_image, scaled

NUM_FEATURES = 1024
DEPTHS = (3, 4, 6, 3)
GROUPS, WIDTH_PER_GROUP = 32, 4
EXPANSION = 4
TALL, WIDE = (3, 1), (1, 5)


class SoundTower(nn.Module):
    """Sound float32 [B, S] at 16 kHz in [-1, 1] → features [B, 1024]."""

    window: Tensor

    def __init__(self, divisor: int = 1) -> None:
        """``divisor`` of all widths: 1 as published, 2 to 16 for small networks of tests and dry runs."""
        super().__init__()
        self.register_buffer("window", blackman_harris())
        channels = 64 // divisor
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for number, depth in enumerate(DEPTHS, start=1):
            width = 64 // divisor * 2 ** (number - 1)
            setattr(self, f"layer{number}", _layer(channels, width, depth, 1 if number == 1 else 2))
            setattr(self, f"att{number}", _Attention(channels, width * EXPANSION, TALL if number % 2 else WIDE))
            channels = width * EXPANSION
        self.att5 = _Attention(channels, channels, (3, 5))
        self.fc = nn.Linear(channels, NUM_FEATURES)
        self.fbsp = FbspKernels()

    def forward(self, sound: Tensor) -> Tensor:
        """Features [B, 1024]."""
        return self.features_of_image(self.image(sound))

    def image(self, sound: Tensor) -> Tensor:
        """The network's input, power in dB: [B, 3, 341, F]."""
        return power_image(scaled(sound), self.window, self.fbsp())

    def features_of_image(self, image: Tensor) -> Tensor:
        """Features [B, 1024] of :meth:`image`."""
        *_, (_, pooled) = self.stages(image)
        return self.fc(pooled.flatten(1))

    def stages(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and output of every stage; the last is the attended global average [B, 2048, 1, 1]."""
        hidden = functional.max_pool2d(torch.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        yield "maxpool", hidden
        for number in range(1, len(DEPTHS) + 1):
            layer_input, hidden = hidden, getattr(self, f"layer{number}")(hidden)
            yield f"layer{number}", hidden
            hidden = hidden * getattr(self, f"att{number}")(layer_input, hidden.shape[-2:])
            yield f"att{number}", hidden
        pooled = functional.adaptive_avg_pool2d(hidden, 1)
        yield "att5", pooled * self.att5(hidden, (1, 1))


class _Attention(nn.Module):
    """A map in (0, 1) of the output's size, from the input of a layer."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = kernel[0] // 2, kernel[1] // 2
        self.conv_depth = nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels)
        self.conv_point = nn.Conv2d(channels, out, 1)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, hidden: Tensor, size: tuple[int, int]) -> Tensor:
        pooled = functional.adaptive_max_pool2d(hidden, size)
        return torch.sigmoid(self.bn(self.conv_point(self.conv_depth(pooled))))


class _Bottleneck(nn.Module):
    """ResNeXt's block: 1×1, grouped 3×3, 1×1, and the shortcut."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        width, out = planes * WIDTH_PER_GROUP * GROUPS // 64, planes * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=min(GROUPS, width), bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        is_same = stride == 1 and channels == out
        self.downsample = (
            None if is_same else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden if self.downsample is None else self.downsample(hidden)
        hidden = torch.relu(self.bn1(self.conv1(hidden)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        return torch.relu(self.bn3(self.conv3(hidden)) + shortcut)


def _layer(channels: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(channels, planes, stride)
    return nn.Sequential(first, *(_Bottleneck(planes * EXPANSION, planes, 1) for _ in range(depth - 1)))
