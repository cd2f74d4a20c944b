"""The codec of JavisDiT v0.1: OpenSora's video VAE v1.2 with AudioLDM2's audio VAE and vocoder.

Latents of both modalities are samples of posteriors, as in the original's training. Their noise depends on the clip alone. Sound is
padded to a multiple of 32 mel frames for encoding and for generation alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avpref.errors import ConfigError, MediaError
from avpref.identity import bytes_sha256, derive_seed, digest
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip
from avpref.media.spectra import CODEC_BANDS, RATE_HZ, STFT_SHORTEST
from avpref.models.checkpoints.weight_folders import Published, weights_hash
from avpref.models.codecs import sound_vae
from avpref.models.codecs.codec import LatentMoments
from avpref.models.codecs.sound_vae import SoundVae
from avpref.models.dual_stream.dual_inputs import CELL_PX
from avpref.models.dual_stream.opensora_vae import OpenSoraVae, num_latent_frames, read_opensora_vae
from avpref.models.flow import Latents, LatentShapes
from avpref.models.javisdit_v01.v01_settings import V01Settings

VERSION = 1
TAILS = {"corrected": sound_vae.CORRECTED, "released": sound_vae.RELEASED}
SPREADS = {"sample": 1.0, "mean": 0.0}
PUBLISHED_VIDEO_VAE = Published("hpcai-tech/OpenSora-VAE-v1.2", "", "base.settings.video_vae")
PUBLISHED_AUDIO_VAE = Published("cvssp/audioldm2", "vae", "base.settings.audio_vae")
PUBLISHED_VOCODER = Published("cvssp/audioldm2", "vocoder", "base.settings.vocoder")


class V01Codec:
    """See :class:`avpref.models.codecs.codec.Codec` and :class:`avpref.models.codecs.codec.PosteriorCodec`.

    Raises ConfigError for clips that the base model cannot make. Shapes are known without weights, every other method raises InputError
    where they are absent; networks are loaded at first use.
    """

    def __init__(self, settings: V01Settings, shape: ClipShape, device: str = "cpu") -> None:
        require_grid(shape, settings.network.fps_hz)
        self.settings, self.shape, self.device = settings, shape, torch.device(device)
        self._tail = TAILS[settings.audio_tail]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of version, settings that affect results, clip shape, and the bytes of the weights."""
        settings = self.settings
        values = settings.codec_dtype, settings.audio_tail, settings.posterior
        weights = [weights_hash(path) for path in self._paths]
        return digest("javisdit v0.1 codec", VERSION, values, asdict(self.shape), weights)

    def latent_shapes(self) -> LatentShapes:
        """Video (C, T, H / 8, W / 8), T of :func:`avpref.models.dual_stream.opensora_vae.num_latent_frames`; audio (8, L, 16)."""
        shape = self.shape
        channels = self.settings.video_vae_network.temporal.latent_channels
        video = channels, num_latent_frames(shape.num_frames), shape.height_px // CELL_PX, shape.width_px // CELL_PX
        length = self._mel_frames(shape.num_samples) // sound_vae.STEP
        return LatentShapes(video, (sound_vae.CHANNELS, length, CODEC_BANDS // sound_vae.STEP))

    def encoded_shapes(self) -> LatentShapes:
        """Those of generated latents."""
        return self.latent_shapes()

    def encode(self, clips: Sequence[DecodedClip]) -> Latents:
        """See :class:`avpref.models.codecs.codec.Codec`. Raises MediaError for a missing track, ValueError for another shape."""
        tracks = [self._tracks(clip) for clip in clips]
        video = torch.stack([self._encode_video(frames) for frames, _ in tracks])
        return Latents(video, torch.stack([self._sound.encode(audio) for _, audio in tracks]))

    def moments(self, clips: Sequence[DecodedClip]) -> LatentMoments:
        """See :class:`avpref.models.codecs.codec.PosteriorCodec`; the video latents are those of :meth:`encode`."""
        tracks = [self._tracks(clip) for clip in clips]
        video = torch.stack([self._encode_video(frames) for frames, _ in tracks])
        posteriors = [self._sound.moments(audio) for _, audio in tracks]
        means, log_variances = (torch.stack(part) for part in zip(*posteriors, strict=True))
        return LatentMoments(video, means, log_variances if self.samples_audio else None)

    def sound_moments(self, audio: NDArray[np.float32]) -> tuple[Tensor, Tensor | None]:
        """See :class:`avpref.models.codecs.codec.PosteriorCodec`."""
        mean, log_variance = self._sound.moments(audio)
        return mean, log_variance if self.samples_audio else None

    @property
    def samples_audio(self) -> bool:
        """See :class:`avpref.models.codecs.codec.SampledCodec`."""
        return self.settings.posterior == "sample"

    @torch.no_grad()
    def decode(self, latents: Latents) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """See :class:`avpref.models.codecs.codec.Codec`. Audio is cut to the length of the video."""
        assert latents.video is not None and latents.audio is not None
        pictures = [self._decode_video(latent) for latent in latents.video]
        sounds = [self._sound.decode(latent, self.shape.num_samples) for latent in latents.audio]
        return list(zip(pictures, sounds, strict=True))

    def release(self) -> None:
        """Unload the networks; the next use loads them again."""
        self.__dict__.pop("_video", None)
        self.__dict__.pop("_sound", None)

    @cached_property
    def _paths(self) -> tuple[Path, Path, Path]:
        settings = self.settings
        return (
            PUBLISHED_VIDEO_VAE.locate(settings.video_vae),
            PUBLISHED_AUDIO_VAE.locate(settings.audio_vae),
            PUBLISHED_VOCODER.locate(settings.vocoder),
        )

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.settings.codec_dtype)
        return dtype

    @cached_property
    def _video(self) -> OpenSoraVae:
        return read_opensora_vae(self._paths[0], self.settings.video_vae_network, self.device, self._dtype)

    @cached_property
    def _sound(self) -> SoundVae:
        vae = sound_vae.load_sound_vae(self._paths[1], self.device, self._dtype)
        vocoder = sound_vae.load_vocoder(self._paths[2], self.device, self._dtype)
        return SoundVae(vae, vocoder, self._tail, SPREADS[self.settings.posterior], self._mel_frames)

    def _mel_frames(self, num_samples: int) -> int:
        return sound_vae.generated_mel_frames(num_samples, self._tail)

    @torch.no_grad()
    def _encode_video(self, frames: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(frames).to(self.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
        seed = derive_seed("video posterior", bytes_sha256(np.ascontiguousarray(frames).tobytes()))
        noise = partial(self._noise, torch.Generator().manual_seed(seed))
        return self._video.encode(pixels.to(self._dtype), noise)[0].float().cpu()

    def _noise(self, generator: torch.Generator, shape: torch.Size) -> Tensor:
        """Noise of a posterior, drawn on the CPU; zeros where latents are means."""
        spread = SPREADS[self.settings.posterior]
        return (spread * torch.randn(shape, generator=generator)).to(self.device, self._dtype)

    def _decode_video(self, latent: Tensor) -> NDArray[np.uint8]:
        pixels = self._video.decode(latent[None].to(self.device, self._dtype), self.shape.num_frames)[0].float()
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(1, 2, 3, 0).contiguous().cpu().numpy()

    def _tracks(self, clip: DecodedClip) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if clip.frames is None or clip.audio is None:
            missing = "picture" if clip.frames is None else "sound"
            raise MediaError(f"a clip without {missing}", "both tracks", "remove the clip's row")
        shape = self.shape
        expected = (shape.num_frames, shape.height_px, shape.width_px, 3), (shape.num_samples,)
        if (clip.frames.shape, clip.audio.shape) != expected:
            raise ValueError(f"expected frames and samples {expected}, found {clip.frames.shape}, {clip.audio.shape}")
        return clip.frames, clip.audio


def require_grid(shape: ClipShape, fps_hz: float) -> None:
    """Raises ConfigError for a clip that the base model cannot make: sides, frame rate, sample rate or length."""
    for name, side in {"height_px": shape.height_px, "width_px": shape.width_px}.items():
        if side % CELL_PX or not side:
            near = dict.fromkeys((side // CELL_PX * CELL_PX, -(-side // CELL_PX) * CELL_PX))
            sides = [value for value in near if value > 0]
            raise ConfigError(
                f"clip.{name} {side}, which is not a multiple of {CELL_PX}",
                f"{name} " + " or ".join(map(str, sides)),
                f"--set clip.{name}={sides[0]}",
            )
    if shape.fps_hz != fps_hz:
        raise ConfigError(
            f"clip.fps_hz {shape.fps_hz}",
            f"{fps_hz}, as base.settings.network.fps_hz has it, which the network embeds",
            f"--set clip.fps_hz={fps_hz}",
        )
    if shape.sample_rate_hz != RATE_HZ:
        found = f"clip.sample_rate_hz {shape.sample_rate_hz}"
        raise ConfigError(found, f"{RATE_HZ}, the rate of the audio codec", f"--set clip.sample_rate_hz={RATE_HZ}")
    if shape.num_samples < STFT_SHORTEST:
        found = f"a clip of {shape.num_samples} samples"
        frames = -(-STFT_SHORTEST * fps_hz // RATE_HZ)
        raise ConfigError(found, f"at least {STFT_SHORTEST}", f"--set clip.num_frames={frames:.0f}")
