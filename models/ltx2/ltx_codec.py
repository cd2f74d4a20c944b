"""The codec of LTX-2: its video VAE, its audio VAE on stereo mel spectra, and its vocoder.

Video latents are normalised per channel. Audio latents are the mean of the VAE's posterior, normalised with 128 pairs of constants
after packing, that is per channel and mel row. Decoded sound is stereo at the vocoder's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from avpref.errors import MediaError
from avpref.identity import digest
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip
from avpref.media.spectra import RATE_HZ, log_mel, resample
from avpref.models.flow import Latents, LatentShapes
from avpref.models.ltx2.ltx_components import load_audio_vae, load_video_vae, load_vocoder
from avpref.models.ltx2.ltx_folder import LtxFolder, LtxSource
from avpref.models.ltx2.ltx_grid import latent_shapes, pack_audio, require_grid, unpack_audio

VERSION = 1
STEREO = 2


@dataclass(frozen=True)
class LtxCodecFiles:
    """Networks of the codec that are not loaded yet. ``tiles`` decodes video in overlapping tiles."""

    source: LtxSource
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    tiles: bool = False


class LtxCodec:
    """See :class:`avpref.models.codecs.codec.Codec`. Decoded audio is [2, S].

    Networks are loaded at first use; :meth:`release` frees them. Raises ConfigError for clips off the grid of the base.
    """

    def __init__(self, files: LtxCodecFiles, shape: ClipShape) -> None:
        require_grid(shape, files.source.version.traits.sample_rate_hz)
        self.files, self.shape = files, shape

    @cached_property
    def fingerprint(self) -> str:
        """Hash of version, clip shape, dtype, tiling and weights."""
        files = self.files
        return digest(
            "ltx codec", VERSION, asdict(self.shape), str(files.dtype), files.tiles, files.source.folder.codec_hash
        )

    def latent_shapes(self) -> LatentShapes:
        """Shapes of one clip's latents; see :func:`avpref.models.ltx2.ltx_grid.latent_shapes`."""
        return latent_shapes(self.shape)

    def encoded_shapes(self) -> LatentShapes:
        """Shapes of encoded latents: those of generated ones."""
        return latent_shapes(self.shape)

    @torch.no_grad()
    def encode(self, clips: Sequence[DecodedClip]) -> Latents:
        """Latents of ``clips``, float32 on the CPU. Raises MediaError for a missing track, ValueError for another shape."""
        tracks = [self._tracks(clip) for clip in clips]
        video = torch.cat([self._encode_video(frames) for frames, _ in tracks])
        return Latents(video, torch.cat([self._encode_audio(sound) for _, sound in tracks]))

    @torch.no_grad()
    def decode(self, latents: Latents) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """One pair (frames uint8 [T, H, W, 3], audio float32 [2, S]) per row.

        The vocoder's last samples are missing up to the length of the clip (at most 50 ms); they are silent.
        """
        assert latents.video is not None and latents.audio is not None
        rows = zip(latents.video.split(1), latents.audio.split(1), strict=True)
        return [(self._decode_video(video), self._decode_audio(audio)) for video, audio in rows]

    def release(self) -> None:
        """Unload the networks; the next use loads them again."""
        for name in ("_video_vae", "_audio_vae", "_vocoder"):
            self.__dict__.pop(name, None)

    @property
    def _folder(self) -> LtxFolder:
        return self.files.source.folder

    @cached_property
    def _video_vae(self) -> Any:
        vae = load_video_vae(self._folder, self.files.dtype, self.files.device)
        if self.files.tiles:
            vae.enable_tiling()
        return vae

    @cached_property
    def _audio_vae(self) -> Any:
        return load_audio_vae(self._folder, torch.float32, self.files.device)

    @cached_property
    def _vocoder(self) -> Any:
        return load_vocoder(self._folder, torch.float32, self.files.device)

    def _encode_video(self, frames: NDArray[np.uint8]) -> Tensor:
        vae = self._video_vae
        pixels = torch.from_numpy(frames).to(vae.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
        latent = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
        mean, std = (_per_channel(constants, latent) for constants in (vae.latents_mean, vae.latents_std))
        return ((latent - mean) * vae.config.scaling_factor / std).cpu()

    def _decode_video(self, latent: Tensor) -> NDArray[np.uint8]:
        vae = self._video_vae
        latent = latent.to(vae.device, torch.float32)
        mean, std = (_per_channel(constants, latent) for constants in (vae.latents_mean, vae.latents_std))
        data = (latent * std / vae.config.scaling_factor + mean).to(vae.dtype)
        time = torch.zeros(1, device=vae.device, dtype=vae.dtype) if vae.config.timestep_conditioning else None
        pixels = vae.decode(data, time, return_dict=False)[0][0].float()
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(1, 2, 3, 0).cpu().numpy()

    def _encode_audio(self, sound: Tensor) -> Tensor:
        vae = self._audio_vae
        spectrum = log_mel(resample(sound.to(vae.device), self.shape.sample_rate_hz, RATE_HZ))
        latent = vae.encode(spectrum[None]).latent_dist.mode()[:, :, : self._num_audio_latents]
        packed = (pack_audio(latent) - vae.latents_mean) / vae.latents_std
        return unpack_audio(packed, latent.shape[3]).cpu()

    def _decode_audio(self, latent: Tensor) -> NDArray[np.float32]:
        vae = self._audio_vae
        packed = pack_audio(latent.to(vae.device, torch.float32)) * vae.latents_std + vae.latents_mean
        sound = self._vocoder(vae.decode(unpack_audio(packed, latent.shape[3]), return_dict=False)[0])[0]
        missing = self.shape.num_samples - sound.shape[1]
        return F.pad(sound, (0, missing)).float().clamp(-1, 1).cpu().numpy()

    @property
    def _num_audio_latents(self) -> int:
        shapes = self.latent_shapes()
        assert shapes.audio is not None
        return shapes.audio[1]

    def _tracks(self, clip: DecodedClip) -> tuple[NDArray[np.uint8], Tensor]:
        if clip.frames is None or clip.audio is None:
            missing = "picture" if clip.frames is None else "sound"
            raise MediaError(f"a clip without {missing}", "both tracks", "remove the clip's row")
        shape = self.shape
        expected = (shape.num_frames, shape.height_px, shape.width_px, 3), (shape.num_samples,)
        if (clip.frames.shape, clip.audio.shape) != expected:
            raise ValueError(f"expected frames and samples {expected}, found {clip.frames.shape}, {clip.audio.shape}")
        return clip.frames, torch.from_numpy(stereo(clip))


def stereo(clip: DecodedClip) -> NDArray[np.float32]:
    """Both channels [2, S] of a clip with sound: its own where it has two, otherwise the mono mix twice."""
    assert clip.audio is not None
    if clip.channels is not None and len(clip.channels) == STEREO:
        return clip.channels
    return np.stack([clip.audio, clip.audio])


def _per_channel(constants: Tensor, latent: Tensor) -> Tensor:
    return constants.view(1, -1, 1, 1, 1).to(latent)
