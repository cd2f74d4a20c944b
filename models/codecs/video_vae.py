"""The video VAE of Wan 2.1 as the released generator uses it: posterior means, normalised per channel, float32.

The first latent frame covers one frame of pixels, every further one four; a cell is 8 × 8 pixels. The network is causal and caches
the last two input frames of every convolution, so encoding and decoding run latent frame by latent frame in constant memory for any
length. Memory grows with the picture: 20.6 KiB per pixel while decoding, plus a canvas of 12 bytes per pixel and frame. At 480p and
81 frames that is 8.5 GiB above the network, or 1.7 GiB in tiles of 256 px (measured on a CPU with 9 frames of that size and of that
tile: benchmarks/video_decoding.md). Tiles are blended linearly over their overlap. Tiling is an approximation, because the decoder
has one attention over whole frames and pads every tile with zeros; a single tile gives exactly the untiled result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avpref.errors import ConfigError
from avpref.media.resolutions import FRAME_GROUP
from avpref.models.checkpoints.checkpoint_files import find_checkpoint, read_tensors
from avpref.models.checkpoints.weight_folders import CONFIG, Published, read_json, require_values
from avpref.storage.weight_files import fit, on_meta

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

PUBLISHED = Published("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "vae", "codec.video_vae")
CHANNELS = 16
CELL_PX = 8
STRUCTURE = {
    "z_dim": CHANNELS,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": False,
    "patch_size": None,
}
"""Values of diffusers' configuration that identify this VAE. Widths are not fixed, so that tests can use small ones."""

MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
"""Mean and standard deviation of each latent channel over natural video, published with Wan 2.1."""


@dataclass(frozen=True)
class Tiling:
    """Size and overlap of the tiles of a decoded frame; ``tile_px`` 0: no tiling. Raises ConfigError for partial cells."""

    tile_px: int = 0
    overlap_px: int = 0

    def __post_init__(self) -> None:
        if self.tile_px and (self.tile_px % CELL_PX or self.overlap_px % CELL_PX or self.overlap_px >= self.tile_px):
            raise ConfigError(
                f"codec.tile_px {self.tile_px} with codec.tile_overlap_px {self.overlap_px}",
                f"multiples of {CELL_PX}, the overlap smaller than the tile",
                "--set codec.tile_px=256 --set codec.tile_overlap_px=64",
            )

    def along(self, num_cells: int) -> list[tuple[slice, Tensor]]:
        """Tiles of one axis: the cells of each tile, and the weights of its pixels. The weights of a pixel sum to 1."""
        tile, overlap = self.tile_px // CELL_PX or num_cells, self.overlap_px // CELL_PX
        if tile >= num_cells:
            return [(slice(0, num_cells), torch.ones(num_cells * CELL_PX))]
        count = math.ceil((num_cells - overlap) / (tile - overlap))
        starts = [round(index * (num_cells - tile) / (count - 1)) for index in range(count)]
        centres_px = torch.arange(num_cells * CELL_PX) + 0.5
        ramps = [self._ramp(centres_px, start * CELL_PX, num_cells * CELL_PX) for start in starts]
        total = torch.stack(ramps).sum(0)
        return [
            (slice(start, start + tile), (ramp / total)[start * CELL_PX : (start + tile) * CELL_PX])
            for start, ramp in zip(starts, ramps, strict=True)
        ]

    def _ramp(self, centres_px: Tensor, start_px: int, size_px: int) -> Tensor:
        """Weights over all pixels of an axis: 1 inside a tile, falling to 0 at its ends except at the ends of the axis."""
        end_px, width = start_px + self.tile_px, max(self.overlap_px, 1)
        rising = (centres_px - start_px) / width if start_px else torch.ones_like(centres_px)
        falling = (end_px - centres_px) / width if end_px < size_px else torch.ones_like(centres_px)
        return torch.minimum(rising, falling).clamp(0.0, 1.0)


class VideoVae:
    """Frames ↔ normalised latents, one clip at a time; see the module."""

    def __init__(self, network: AutoencoderKLWan, tiling: Tiling, *, stream_frames: bool = True) -> None:
        self._network, self._tiling = network, tiling
        self._device = next(network.parameters()).device
        self._canvas_device = torch.device("cpu") if stream_frames else self._device
        self._mean, self._std = (torch.tensor(values, device=self._device).view(-1, 1, 1, 1) for values in (MEAN, STD))

    @torch.no_grad()
    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """Frames [4k + 1, H, W, 3] → latents [16, k + 1, H / 8, W / 8], float32 on the CPU: (mean − MEAN) / STD."""
        caches = self._caches("encoder")
        moments = []
        for start in (0, *range(1, len(frames), FRAME_GROUP)):
            group = torch.tensor(frames[start : start + FRAME_GROUP if start else 1], device=self._device)
            pixels = group.permute(3, 0, 1, 2)[None] / 127.5 - 1.0
            features = self._network.encoder(pixels, feat_cache=caches, feat_idx=[0])
            moments.append(self._network.quant_conv(features)[0, :CHANNELS])
        return ((torch.cat(moments, dim=1) - self._mean) * (1.0 / self._std)).cpu()

    @torch.no_grad()
    def decode(self, latent: Tensor) -> NDArray[np.uint8]:
        """Latents [16, T, h, w] → frames [4T − 3, 8h, 8w, 3]: clamped to [−1, 1], then rounded half up to 8-bit levels."""
        _, num_latent, height, width = latent.shape
        z = latent.to(self._device, torch.float32) / (1.0 / self._std) + self._mean
        size = (3, FRAME_GROUP * (num_latent - 1) + 1, CELL_PX * height, CELL_PX * width)
        canvas = torch.zeros(size, device=self._canvas_device)
        for rows, row_weights in self._tiling.along(height):
            for columns, column_weights in self._tiling.along(width):
                weights = (row_weights[:, None] * column_weights).to(self._device)
                tile, done = canvas[:, :, _pixels(rows), _pixels(columns)], 0
                for group in self._stream(z[None, :, :, rows, columns]):
                    tile[:, done : done + group.shape[1]] += (group * weights).to(canvas.device)
                    done += group.shape[1]
        levels = canvas.clamp_(-1.0, 1.0).add_(1.0).div_(2.0).mul_(255.0).add_(0.5).floor_().clamp_(max=255.0)
        return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()

    def _stream(self, z: Tensor) -> Iterator[Tensor]:
        """Decode latents [1, 16, T, h, w] frame by frame: pixels [3, 1 or 4, 8h, 8w] per latent frame."""
        caches = self._caches("decoder")
        for index in range(z.shape[2]):
            frame = self._network.post_quant_conv(z[:, :, index : index + 1])
            yield self._network.decoder(frame, feat_cache=caches, feat_idx=[0], first_chunk=index == 0)[0]

    def _caches(self, part: str) -> list[Tensor | None]:
        """Empty caches, one for every causal convolution of ``part``; the network fills them between groups."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        modules = self._network.get_submodule(part).modules()
        return [None] * sum(isinstance(module, WanCausalConv3d) for module in modules)


def load_video_vae(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> AutoencoderKLWan:
    """Load Wan 2.1's VAE from a folder saved by diffusers or a file with Wan's names (``Wan2.1_VAE.pth``).

    Weights are rounded to ``dtype`` (None: not rounded), and arithmetic runs in float32; the released code rounds to bfloat16.
    Raises InputError for unreadable files, for another VAE, and for any tensor that is missing, unexpected or misshapen.
    """
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    tensors = read_tensors(find_checkpoint(path))
    if path.is_dir():
        config = {"patch_size": None, "is_residual": False, **read_json(path / CONFIG)}
        require_values(path, config, STRUCTURE, "Wan 2.1's video VAE")
        network = on_meta(lambda: AutoencoderKLWan.from_config(config))
    else:
        widths = _widths(tensors)
        tensors = convert_wan_vae_to_diffusers(tensors)
        network = on_meta(lambda: AutoencoderKLWan(**STRUCTURE, **widths))
    rounded = {name: tensor.to(dtype or tensor.dtype).to(torch.float32) for name, tensor in tensors.items()}
    fit(network, rounded, path, device=device)
    return network


def _widths(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Constructor values inferred from ``tensors`` under Wan's names; published values if a tensor is missing."""
    encoder, decoder = tensors.get("encoder.conv1.weight"), tensors.get("decoder.conv1.weight")
    width = 96 if encoder is None else encoder.shape[0]
    return {"base_dim": width, "decoder_base_dim": width if decoder is None else decoder.shape[0] // 4}


def _pixels(cells: slice) -> slice:
    return slice(cells.start * CELL_PX, cells.stop * CELL_PX)
