"""OpenSora's video VAE v1.2: SDXL's VAE per frame, then the temporal VAE on windows of 17 frames, then a fixed shift and scale.

Names of :class:`OpenSoraVae` are those of the released file (``spatial_vae.module.*``, ``temporal_vae.*``, ``scale``, ``shift``); its
spatial part is diffusers' ``AutoencoderKL``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import find_checkpoint, read_tensors
from avpref.models.dual_stream.temporal_vae import TemporalVae, TemporalVaeConfig, drawn
from avpref.storage.weight_files import on_meta, require_shapes

WINDOW_FRAMES = 17
"""Frames of a window; each becomes 5 latents independently of the others, and a shorter last one ⌈n / 4⌉."""
SPATIAL_SCALE = 0.18215
"""Factor of the 2-D latents (not SDXL's own)."""
SHIFT = (-0.10, 0.34, 0.27, 0.98)
SCALE = (3.85, 2.32, 2.33, 3.06)

FRAMES_AT_ONCE = 4
"""Frames that the spatial part encodes or decodes together."""
SPATIAL_LEVELS = 4


@dataclass(frozen=True)
class OpenSoraSizes:
    """Sizes of both parts; the defaults are those of the release.

    The spatial part is that of ``PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers`` (subfolder ``vae``): ``widths`` of its four levels,
    residual blocks per level, and groups of its norms. Raises ValueError for another number of levels, which would have other cells.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    temporal: TemporalVaeConfig = field(default_factory=TemporalVaeConfig)
    widths: tuple[int, ...] = (128, 256, 512, 512)
    num_res_blocks: int = 2
    num_groups: int = 32

    def __post_init__(self) -> None:
        if len(self.widths) != SPATIAL_LEVELS or self.temporal.time_factor != SPATIAL_LEVELS:
            raise ValueError(
                f"widths of {len(self.widths)} levels and {self.temporal.time_factor} frames per latent: the video VAE has "
                "cells of 8 pixels, which is 4 levels, and 4 frames per latent"
            )

    @property
    def spatial(self) -> Mapping[str, Any]:
        """Constructor values of diffusers' ``AutoencoderKL``."""
        return {
            "block_out_channels": self.widths,
            "down_block_types": ("DownEncoderBlock2D",) * SPATIAL_LEVELS,
            "up_block_types": ("UpDecoderBlock2D",) * SPATIAL_LEVELS,
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": self.temporal.in_channels,
            "layers_per_block": self.num_res_blocks,
            "norm_num_groups": self.num_groups,
            "sample_size": 1024,
        }


Normal = Callable[[torch.Size], Tensor]
"""Draws N(0, 1) of a shape."""


class OpenSoraVae(nn.Module):
    """Video to latents and back. Noise of both posteriors is drawn by a function of the caller."""

    scale: Tensor
    shift: Tensor

    def __init__(self, sizes: OpenSoraSizes = OpenSoraSizes()) -> None:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        super().__init__()
        self.spatial_vae = nn.ModuleDict({"module": AutoencoderKL(**sizes.spatial)})
        self.temporal_vae = TemporalVae(sizes.temporal)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, -1, 1, 1, 1))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, -1, 1, 1, 1))

    @property
    def _spatial(self) -> Any:
        """diffusers' network."""
        return self.spatial_vae["module"]

    def encode(self, video: Tensor, normal: Normal) -> Tensor:
        """Latents [B, 4, T', H / 8, W / 8] of ``video`` [B, 3, T, H, W] in [-1, 1]."""
        frames = video.transpose(1, 2).flatten(0, 1)
        parts = [self._encoded(part, normal) for part in frames.split(FRAMES_AT_ONCE)]
        planes = torch.cat(parts).unflatten(0, (len(video), -1)).transpose(1, 2)
        return encode_windows(self.temporal_vae, planes, normal)

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Video [B, 3, ``num_frames``, 8h, 8w] of ``latents``; values are not clipped. Raises as :func:`decode_windows`."""
        planes = decode_windows(self.temporal_vae, latents, num_frames)
        frames = (planes / SPATIAL_SCALE).transpose(1, 2).flatten(0, 1)
        decoded = torch.cat([self._spatial.decode(part).sample for part in frames.split(FRAMES_AT_ONCE)])
        return decoded.unflatten(0, (len(latents), -1)).transpose(1, 2)

    def _encoded(self, frames: Tensor, normal: Normal) -> Tensor:
        posterior = self._spatial.encode(frames).latent_dist
        return SPATIAL_SCALE * (posterior.mean + posterior.std * normal(posterior.mean.shape))


def read_opensora_vae(
    path: Path, sizes: OpenSoraSizes, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> OpenSoraVae:
    """The VAE in the files at ``path``, in evaluation mode. Raises as :func:`load_opensora_vae`."""
    vae = on_meta(lambda: OpenSoraVae(sizes))
    return load_opensora_vae(vae, read_tensors(find_checkpoint(path)), path).to(device, dtype)


def load_opensora_vae(vae: OpenSoraVae, tensors: Mapping[str, Tensor], source: object) -> OpenSoraVae:
    """Give ``vae`` exactly ``tensors`` under the released names. Raises InputError for other names, shapes, shift or scale."""
    expected = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fix = "give the file of OpenSora-VAE-v1.2"
    require_shapes(f"{source} (OpenSora's video VAE)", shapes, expected, fix)
    for name, values in (("scale", SCALE), ("shift", SHIFT)):
        if not torch.allclose(tensors[name].float().flatten(), torch.tensor(values), rtol=4e-3):
            raise InputError(f"{source}: {name} is {tensors[name].flatten().tolist()}", str(values), fix)
    vae.load_state_dict(dict(tensors), assign=True)
    return vae


def num_latent_frames(num_frames: int) -> int:
    """Latent frames of a video."""
    whole, rest = divmod(num_frames, WINDOW_FRAMES)
    return whole * 5 + -(-rest // 4)


def encode_windows(vae: TemporalVae, frames: Tensor, normal: Normal) -> Tensor:
    """Latents [B, 4, T', h, w] of scaled 2-D latents [B, 4, T, h, w]; ``normal`` draws the noise of each window in order."""
    parts = []
    for window in frames.split(WINDOW_FRAMES, dim=2):
        mean, log_variance = vae.moments(window)
        parts.append(drawn(mean, log_variance, normal(mean.shape)))
    return (torch.cat(parts, dim=2) - _row(SHIFT, frames)) / _row(SCALE, frames)


def decode_windows(vae: TemporalVae, latents: Tensor, num_frames: int) -> Tensor:
    """Scaled 2-D latents [B, 4, ``num_frames``, h, w] of ``latents``. Raises ValueError for latents of another length."""
    if latents.shape[2] != num_latent_frames(num_frames):
        found = f"{latents.shape[2]} latent frames for {num_frames} frames"
        raise ValueError(f"{found}, expected {num_latent_frames(num_frames)}")
    z = latents * _row(SCALE, latents) + _row(SHIFT, latents)
    return torch.cat([vae.decode(window, num) for window, num in _windows(z, num_frames)], dim=2)


def _windows(z: Tensor, num_frames: int) -> Iterator[tuple[Tensor, int]]:
    """The latents of each window, and its number of frames."""
    start = 0
    for first in range(0, num_frames, WINDOW_FRAMES):
        num = min(WINDOW_FRAMES, num_frames - first)
        length = -(-num // 4)
        yield z[:, :, start : start + length], num
        start += length


def _row(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
