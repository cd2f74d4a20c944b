"""I3D, the network of FVD and KVD: RGB video → 400 logits of Kinetics classes per time step.

Topology and tensor names of the port that JavisBench and earlier FVD code use (checkpoint ``i3d_pretrained_400.pt``): TF "SAME"
padding by zeros in convolutions and max pools, batch normalisation with eps 1e-5, first convolution with stride 2 also in
time. Source: Carreira and Zisserman 2017; the evaluation code of JavisBench.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_LOGITS = 400
SIDE_PX = 224
BN_EPS = 1e-5
Size = tuple[int, int, int]

BRANCHES: dict[str, tuple[int, tuple[int, int, int, int, int, int]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Input channels of the mixed blocks, and output channels of b0, b1a, b1b, b2a, b2b and b3b."""

POOLS: dict[str, tuple[Size, Size]] = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride of the max pools."""

STAGES = (
    *("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3"),
    *("Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
    *("MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c"),
)


class I3d(nn.Module):
    """Video float32 [B, 3, T, H, W], T at least 10 → logits [B, 400], the mean over time of :meth:`logits_over_time`."""

    def __init__(self, divisor: int = 1) -> None:
        """``divisor`` of all widths: 1 as published, up to 16 for small networks of tests and dry runs."""
        super().__init__()
        self.logits = _Unit(1024 // divisor, NUM_LOGITS, (1, 1, 1), is_plain=True)
        self.Conv3d_1a_7x7 = _Unit(3, 64 // divisor, (7, 7, 7), (2, 2, 2))
        self.Conv3d_2b_1x1 = _Unit(64 // divisor, 64 // divisor, (1, 1, 1))
        self.Conv3d_2c_3x3 = _Unit(64 // divisor, 192 // divisor, (3, 3, 3))
        for name, (channels, widths) in BRANCHES.items():
            setattr(self, name, _Mixed(channels // divisor, tuple(width // divisor for width in widths)))

    def forward(self, video: Tensor) -> Tensor:
        """Logits [B, 400]."""
        return self.logits_over_time(video).mean(2)

    def logits_over_time(self, video: Tensor) -> Tensor:
        """Logits [B, 400, S]: 16 frames give S = 1, 24 give 2."""
        pooled = functional.avg_pool3d(self.features(video), (2, 7, 7), stride=1)
        return self.logits(pooled).flatten(2)

    def features(self, video: Tensor) -> Tensor:
        """The output of the last mixed block: [B, 1024, T', H', W']."""
        hidden = video
        for name in STAGES:
            hidden = same_max_pool(hidden, *POOLS[name]) if name in POOLS else getattr(self, name)(hidden)
        return hidden


class _Unit(nn.Module):
    """Convolution with SAME padding, batch normalisation, ReLU; ``is_plain``: a convolution with bias alone."""

    def __init__(
        self, channels: int, out: int, kernel: Size, stride: Size = (1, 1, 1), *, is_plain: bool = False
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, out, kernel, stride, bias=is_plain)
        self.bn = None if is_plain else nn.BatchNorm3d(out, eps=BN_EPS)

    def forward(self, hidden: Tensor) -> Tensor:
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        convolved = self.conv3d(same_padded(hidden, kernel, stride))  # type: ignore[arg-type]
        return convolved if self.bn is None else torch.relu(self.bn(convolved))


class _Mixed(nn.Module):
    """Four branches, concatenated: 1×1×1; 1×1×1 and 3×3×3 (twice); max pool and 1×1×1."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        point, cube = (1, 1, 1), (3, 3, 3)
        self.b0 = _Unit(channels, widths[0], point)
        self.b1a = _Unit(channels, widths[1], point)
        self.b1b = _Unit(widths[1], widths[2], cube)
        self.b2a = _Unit(channels, widths[3], point)
        self.b2b = _Unit(widths[3], widths[4], cube)
        self.b3b = _Unit(channels, widths[5], point)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled = same_max_pool(hidden, (3, 3, 3), (1, 1, 1))
        branches = (self.b0(hidden), self.b1b(self.b1a(hidden)), self.b2b(self.b2a(hidden)), self.b3b(pooled))
        return torch.cat(branches, 1)


def same_padded(hidden: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Zeros around the last three axes, so that an axis of size n has ⌈n / stride⌉ outputs; the smaller half in front."""
    padding: list[int] = []
    for size, width, step in reversed(list(zip(hidden.shape[-3:], kernel, stride, strict=True))):
        total = max(width - (size % step or step), 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(hidden, padding)


def same_max_pool(hidden: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Max pool over zeros-padded input; see :func:`same_padded`."""
    return functional.max_pool3d(same_padded(hidden, kernel, stride), kernel, stride)
