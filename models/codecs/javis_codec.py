"""The codec of the released generator: Wan 2.1's video VAE with AudioLDM2's audio VAE and vocoder.

The networks are loaded at first use; :meth:`JavisCodec.release` frees their memory, so that encoding, training and sampling can
share one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avpref.config.codec_settings import JavisCodecSettings
from avpref.errors import ConfigError, MediaError
from avpref.identity import digest
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip
from avpref.media.resolutions import CELL_PX, latent_frames, nearest_lengths, nearest_sides
from avpref.media.spectra import CODEC_BANDS, RATE_HZ, STFT_SHORTEST
from avpref.models.checkpoints.weight_folders import weights_hash
from avpref.models.codecs import sound_vae, video_vae
from avpref.models.codecs.codec import LatentMoments
from avpref.models.codecs.sound_vae import SoundVae, Tail
from avpref.models.codecs.video_vae import Tiling, VideoVae
from avpref.models.flow import Latents, LatentShapes

VERSION = 1
TAILS = {"corrected": sound_vae.CORRECTED, "released": sound_vae.RELEASED}
SPREADS = {"sample": 1.0, "mean": 0.0}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WITHOUT_EFFECT = {"video_vae", "audio_vae", "vocoder", "stream_frames"}
"""Settings that do not change latents or decoded clips: paths, and where frames are kept."""


class JavisCodec:
    """See :class:`avpref.models.codecs.codec.Codec`.

    ``shape`` is the effective shape: sides in multiples of 16 pixels (:func:`avpref.media.resolutions.effective_size` of nominal
    ones), 4k + 1 frames, audio at 16 kHz. Raises ConfigError for any other shape. Weights are located on first use: shapes are
    known without them, every other method raises InputError if they are absent.
    """

    def __init__(self, config: JavisCodecSettings, shape: ClipShape, device: torch.device | str = "cpu") -> None:
        _require_size(shape)
        _require_sound(shape)
        self.config, self.shape, self.device = config, shape, torch.device(device)
        self._tiling = Tiling(config.tile_px, config.tile_overlap_px)

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        """Paths of the weights. Raises InputError if they are absent."""
        config = self.config
        return (
            video_vae.PUBLISHED.locate(config.video_vae),
            sound_vae.PUBLISHED_VAE.locate(config.audio_vae),
            sound_vae.PUBLISHED_VOCODER.locate(config.vocoder),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the codec's version, the settings that affect results, the clip shape, and the bytes of the weights."""
        settings = self.config.model_dump(exclude=WITHOUT_EFFECT)
        return digest(
            "javis codec", VERSION, settings, asdict(self.shape), [weights_hash(path) for path in self._paths]
        )

    def latent_shapes(self) -> LatentShapes:
        """Shapes of generated latents: video (16, T, H / 8, W / 8), audio (8, L, 16) with L a multiple of 8."""
        return self._shapes(sound_vae.generated_mel_frames(self.shape.num_samples, self._tail))

    def encoded_shapes(self) -> LatentShapes:
        """Shapes of encoded latents: as generated, but L a multiple of 2, as in training of the released model."""
        return self._shapes(sound_vae.encoded_mel_frames(self.shape.num_samples))

    def encode(self, clips: Sequence[DecodedClip]) -> Latents:
        """See :class:`avpref.models.codecs.codec.Codec`. Raises MediaError for a missing track, ValueError for another shape."""
        tracks = [self._tracks(clip) for clip in clips]
        video = torch.stack([self._video.encode(frames) for frames, _ in tracks])
        return Latents(video, torch.stack([self._sound.encode(audio) for _, audio in tracks]))

    def moments(self, clips: Sequence[DecodedClip]) -> LatentMoments:
        """See :class:`avpref.models.codecs.codec.PosteriorCodec`. Raises as :meth:`encode`."""
        tracks = [self._tracks(clip) for clip in clips]
        video = torch.stack([self._video.encode(frames) for frames, _ in tracks])
        posteriors = [self._sound.moments(audio) for _, audio in tracks]
        means, log_variances = (torch.stack(part) for part in zip(*posteriors, strict=True))
        return LatentMoments(video, means, log_variances if self.samples_audio else None)

    def sound_moments(self, audio: NDArray[np.float32]) -> tuple[Tensor, Tensor | None]:
        """See :class:`avpref.models.codecs.codec.Codec`."""
        mean, log_variance = self._sound.moments(audio)
        return mean, log_variance if self.samples_audio else None

    @property
    def samples_audio(self) -> bool:
        """See :class:`avpref.models.codecs.codec.SampledCodec`."""
        return self.config.audio_posterior == "sample"

    def decode(self, latents: Latents) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """See :class:`avpref.models.codecs.codec.Codec`. Audio is cut to the length of the video."""
        assert latents.video is not None and latents.audio is not None
        pictures = [self._video.decode(latent) for latent in latents.video]
        sounds = [self._sound.decode(latent, self.shape.num_samples) for latent in latents.audio]
        return list(zip(pictures, sounds, strict=True))

    def release(self) -> None:
        """Unload the networks; the next use loads them again."""
        self.__dict__.pop("_video", None)
        self.__dict__.pop("_sound", None)

    @property
    def _tail(self) -> Tail:
        return TAILS[self.config.audio_tail]

    @cached_property
    def _video(self) -> VideoVae:
        network = video_vae.load_video_vae(self._paths[0], self.device, DTYPES[self.config.dtype])
        return VideoVae(network, self._tiling, stream_frames=self.config.stream_frames)

    @cached_property
    def _sound(self) -> SoundVae:
        dtype = DTYPES[self.config.dtype]
        vae = sound_vae.load_sound_vae(self._paths[1], self.device, dtype)
        vocoder = sound_vae.load_vocoder(self._paths[2], self.device, dtype)
        return SoundVae(vae, vocoder, self._tail, SPREADS[self.config.audio_posterior])

    def _shapes(self, mel_frames: int) -> LatentShapes:
        shape, cell = self.shape, video_vae.CELL_PX
        video = video_vae.CHANNELS, latent_frames(shape.num_frames), shape.height_px // cell, shape.width_px // cell
        return LatentShapes(video, (sound_vae.CHANNELS, mel_frames // sound_vae.STEP, CODEC_BANDS // sound_vae.STEP))

    def _tracks(self, clip: DecodedClip) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if clip.frames is None or clip.audio is None:
            missing = "picture" if clip.frames is None else "sound"
            raise MediaError(f"a clip without {missing}", "both tracks", "remove the clip's row")
        shape = self.shape
        expected = (shape.num_frames, shape.height_px, shape.width_px, 3), (shape.num_samples,)
        if (clip.frames.shape, clip.audio.shape) != expected:
            raise ValueError(f"expected frames and samples {expected}, found {clip.frames.shape}, {clip.audio.shape}")
        return clip.frames, clip.audio


def _require_size(shape: ClipShape) -> None:
    sides = {"height_px": shape.height_px, "width_px": shape.width_px}
    wrong = {name: side for name, side in sides.items() if side % CELL_PX}
    if wrong:
        nearest = {name: nearest_sides(side) for name, side in wrong.items()}
        raise ConfigError(
            ", ".join(f"clip.{name} {side}" for name, side in wrong.items()) + ", which is not a whole number of cells",
            "; ".join(f"{name} " + " or ".join(map(str, near)) for name, near in nearest.items()),
            " ".join(f"--set clip.{name}={near[-1]}" for name, near in nearest.items()),
        )
    near = nearest_lengths(shape.num_frames)
    if shape.num_frames not in near:
        raise ConfigError(
            f"clip.num_frames {shape.num_frames}, which is not 4k + 1",
            "num_frames " + " or ".join(map(str, near)),
            f"--set clip.num_frames={near[-1]}",
        )


def _require_sound(shape: ClipShape) -> None:
    if shape.sample_rate_hz != RATE_HZ:
        found = f"clip.sample_rate_hz {shape.sample_rate_hz}"
        raise ConfigError(found, f"{RATE_HZ}, the rate of the audio codec", f"--set clip.sample_rate_hz={RATE_HZ}")
    if shape.num_samples < STFT_SHORTEST:
        found = f"a clip of {shape.num_samples} samples"
        raise ConfigError(found, f"at least {STFT_SHORTEST}", "raise clip.num_frames or lower clip.fps_hz")
