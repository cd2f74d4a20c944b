"""The temporal part of OpenSora's video VAE v1.2: causal convolutions in time that shorten 2-D latents to a quarter.

Names and shapes are those of the released weights (``temporal_vae.*``). Tensors are [B, C, T, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

GROUP_EPS = 1e-5
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0


@dataclass(frozen=True)
class TemporalVaeConfig:
    """Sizes; the defaults are those of the release. ``downsample``: the levels (from 0) after which time is halved."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    in_channels: int = 4
    latent_channels: int = 4
    filters: int = 128
    num_res_blocks: int = 4
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    downsample: tuple[int, ...] = (1, 2)
    num_groups: int = 32

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels."""
        return tuple(self.filters * factor for factor in self.channel_multipliers)

    @property
    def time_factor(self) -> int:
        """Frames per latent."""
        return int(2 ** len(self.downsample))


class CausalConv(nn.Module):
    """A convolution that sees no later frame: zeros in front in time, on both sides in space."""

    def __init__(self, inputs: int, outputs: int, kernel: int, time_stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.in_front = (kernel - 1) + (1 - time_stride)
        self.beside = kernel // 2
        self.conv = nn.Conv3d(inputs, outputs, kernel, (time_stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, h, w]."""
        side = self.beside
        out: Tensor = self.conv(F.pad(x, (side, side, side, side, self.in_front, 0)))
        return out


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; a 1 × 1 × 1 shortcut where the widths differ."""

    def __init__(self, inputs: int, outputs: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, inputs, GROUP_EPS)
        self.conv1 = CausalConv(inputs, outputs, 3, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, outputs, GROUP_EPS)
        self.conv2 = CausalConv(outputs, outputs, 3, bias=False)
        if inputs != outputs:
            self.conv3 = CausalConv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, h, w]."""
        inner = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return inner + (self.conv3(x) if hasattr(self, "conv3") else x)


def _blocks(widths: Sequence[int], num_groups: int) -> nn.Sequential:
    """Residual blocks from each width to the next."""
    return nn.Sequential(*(ResidualBlock(inputs, outputs, num_groups) for inputs, outputs in pairwise(widths)))


class TemporalEncoder(nn.Module):
    """2-D latents to twice the latent channels (before the quantising convolution)."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        widths, groups, count = config.widths, config.num_groups, config.num_res_blocks
        self.conv_in = CausalConv(config.in_channels, config.filters, 3, bias=False)
        before = (config.filters, *widths)
        self.block_res_blocks = nn.ModuleList(
            _blocks([before[level], *[width] * count], groups) for level, width in enumerate(widths)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv(width, width, 3, time_stride=2) if level in config.downsample else nn.Identity()
            for level, width in enumerate(widths[:-1])
        )
        self.res_blocks = _blocks([widths[-1]] * (count + 1), groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1], GROUP_EPS)
        self.conv2 = CausalConv(widths[-1], 2 * config.latent_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, h, w] → [B, 2 · latent channels, T / 4, h, w]."""
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            x = blocks(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        x = self.res_blocks(x)
        out: Tensor = self.conv2(F.silu(self.norm1(x)))
        return out


class TemporalDecoder(nn.Module):
    """Latents to 2-D latents of four times as many frames; doubled channels become two frames each."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        widths, groups, count = config.widths, config.num_groups, config.num_res_blocks
        self.conv1 = CausalConv(config.latent_channels, widths[-1], 3)
        self.res_blocks = _blocks([widths[-1]] * (count + 1), groups)
        after = (*widths[1:], widths[-1])
        self.block_res_blocks = nn.ModuleList(
            _blocks([after[level], *[width] * count], groups) for level, width in enumerate(widths)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv(width, 2 * width, 3) if level in config.downsample else nn.Identity()
            for level, width in zip(range(len(widths) - 1), widths[1:], strict=True)
        )
        self.norm1 = nn.GroupNorm(groups, config.filters, GROUP_EPS)
        self.conv_out = CausalConv(config.filters, config.in_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, latent channels, T, h, w] → [B, C, 4 T, h, w]."""
        x = self.res_blocks(self.conv1(x))
        for level in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[level](x)
            if level > 0:
                x = _unfolded(self.conv_blocks[level - 1], x)
        out: Tensor = self.conv_out(F.silu(self.norm1(x)))
        return out


def _unfolded(layer: nn.Module, x: Tensor) -> Tensor:
    """Double the frames with ``layer``, whose channel 2c + p is frame 2t + p; unchanged for an identity."""
    if isinstance(layer, nn.Identity):
        return x
    doubled = layer(x)
    frames = doubled.unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5)
    out: Tensor = frames.flatten(2, 3)
    return out


class TemporalVae(nn.Module):
    """Encoder, decoder and the convolutions beside the latents. One window at a time; see :mod:`opensora_vae`."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = TemporalEncoder(config)
        self.quant_conv = CausalConv(2 * channels, 2 * channels, 1)
        self.post_quant_conv = CausalConv(channels, channels, 1)
        self.decoder = TemporalDecoder(config)

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, C, ⌈T / 4⌉, h, w] of 2-D latents [B, C, T, h, w]; zeros are put in front of odd lengths."""
        in_front = -frames.shape[2] % self.config.time_factor
        padded = F.pad(frames, (0, 0, 0, 0, in_front, 0))
        mean, log_variance = self.quant_conv(self.encoder(padded)).chunk(2, dim=1)
        return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """The last ``num_frames`` frames of the 2-D latents of ``latents`` [B, C, T, h, w]."""
        frames = self.decoder(self.post_quant_conv(latents))
        out: Tensor = frames[:, :, frames.shape[2] - num_frames :]
        return out


def drawn(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A sample of the posterior: mean + exp(½ log variance) · noise."""
    return mean + torch.exp(0.5 * log_variance) * noise
