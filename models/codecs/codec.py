"""The codec protocol (clips ↔ latents), and the identity codec, which needs no weights.

Video latents of the identity codec are area-averaged pixels scaled to [-1, 1]; audio latents are band levels
(:mod:`avpref.media.bands`) scaled so that -80 dB is -1 and full scale is 1. Both are then normalised with constants of the
configuration, as Wan's VAE does per channel, because flow matching needs latents with a standard deviation near that of the noise.
Decoded pixels are interpolated between cells, but their averages equal the latents; the error of clipping at black and white is
corrected once, evenly over the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avpref.config.codec_settings import IdentityCodecSettings
from avpref.errors import ConfigError, MediaError
from avpref.identity import digest
from avpref.media.bands import FLOOR_DB, BandLayout, analyse, synthesise
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip
from avpref.models.flow import Latents, LatentShapes

VERSION = 1


class LatentMoments(NamedTuple):
    """Encoded clips before the audio posterior is sampled: means of video [B, C, T, h, w] and audio [B, C, L, M], and the
    log-variance of audio, None where the codec does not sample it. Latents are mean + exp(log-variance / 2) · noise.
    """

    video: Tensor
    audio: Tensor
    audio_log_variance: Tensor | None


class Codec(Protocol):
    """Encodes clips as latents and decodes latents to clips; all clips have the shape that the codec was made for.

    Example::

        shape = ClipShape(num_frames=16, height_px=64, width_px=64, fps_hz=8.0, sample_rate_hz=16000)
        codec = IdentityCodec(IdentityCodecSettings(), shape)
        latents = codec.encode([read_clip("one.mp4", shape), read_clip("two.mp4", shape)])
        latents.video.shape  # [2, 3, 16, 8, 8], as codec.encoded_shapes().video with two rows
        frames, audio = codec.decode(latents)[0]  # uint8 [16, 64, 64, 3], float32 [32000]
    """

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the latents depend on."""
        ...

    def latent_shapes(self) -> LatentShapes:
        """Shapes of one clip's latents when they are generated."""
        ...

    def encoded_shapes(self) -> LatentShapes:
        """Shapes of one clip's latents from :meth:`encode`; they may be shorter in time than :meth:`latent_shapes`."""
        ...

    def encode(self, clips: Sequence[DecodedClip]) -> Latents:
        """Latents of ``clips``: video [B, C, T, h, w], audio [B, C, L, M], float32 on the CPU.

        Raises MediaError for a missing track, ValueError for a clip of another shape.
        """
        ...

    def decode(self, latents: Latents) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """One pair (frames uint8 [T, H, W, 3], audio float32 [S]) per row of ``latents``."""
        ...


@runtime_checkable
class PosteriorCodec(Protocol):
    """A codec that gives moments before the audio posterior is sampled, and encodes sound without a picture."""

    def moments(self, clips: Sequence[DecodedClip]) -> LatentMoments:
        """As :meth:`Codec.encode`, with nothing sampled."""
        ...

    def sound_moments(self, audio: NDArray[np.float32]) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance [C, L, M] of the sound of one clip, float32 [S] at the clip's rate; see :class:`LatentMoments`."""
        ...


@runtime_checkable
class SampledCodec(Protocol):
    """A codec that says whether its moments have a log-variance, before any clip is encoded."""

    @property
    def samples_audio(self) -> bool:
        """Whether audio latents are samples, so that mean and log-variance are stored."""
        ...


def moments_of(codec: Codec, clips: Sequence[DecodedClip]) -> LatentMoments:
    """Moments of ``clips``; the latents of a codec that is no :class:`PosteriorCodec` are taken as they are. Raises as ``encode``."""
    if isinstance(codec, PosteriorCodec):
        return codec.moments(clips)
    video, audio = codec.encode(clips)
    assert video is not None and audio is not None
    return LatentMoments(video, audio, None)


class IdentityCodec:
    """The codec without weights; see the module.

    Raises ConfigError if the clip's shape is not a whole number of cells and audio frames.
    """

    def __init__(self, config: IdentityCodecSettings, shape: ClipShape) -> None:
        self.config, self.shape = config, shape
        self._require_whole_cells()
        self._layout = _band_layout(config, shape)
        self._shrink = [_shrink(size // config.video_scale, config.video_scale) for size in _size(shape)]
        self._grow = [_grow(shrink, config.video_scale) for shrink in self._shrink]

    @property
    def fingerprint(self) -> str:
        """Hash of the codec's version, settings and clip shape."""
        return digest("identity codec", VERSION, self.config.model_dump(), asdict(self.shape))

    def latent_shapes(self) -> LatentShapes:
        """Video (3, T, H / scale, W / scale) and audio (1, L, bands), L = duration · audio_rate_hz."""
        height, width = (size // self.config.video_scale for size in _size(self.shape))
        num_levels = self._layout.num_frames(self.shape.num_samples)
        return LatentShapes((3, self.shape.num_frames, height, width), (1, num_levels, self.config.audio_bands))

    def encoded_shapes(self) -> LatentShapes:
        """Equal to :meth:`latent_shapes`."""
        return self.latent_shapes()

    def encode(self, clips: Sequence[DecodedClip]) -> Latents:
        """See :class:`Codec`. Raises MediaError for a missing track, ValueError for a clip of another shape."""
        for clip in clips:
            self._require_shape(clip)
        pixels = np.stack([clip.frames for clip in clips if clip.frames is not None]).astype(np.float32)
        cells = _resample(pixels, *self._shrink).transpose(0, 4, 1, 2, 3) / 127.5 - 1.0
        audio = self._levels(np.stack([clip.audio for clip in clips if clip.audio is not None]))
        video = np.ascontiguousarray((cells - self.config.video_mean) / self.config.video_std, np.float32)
        return Latents(torch.from_numpy(video), torch.from_numpy(audio))

    def moments(self, clips: Sequence[DecodedClip]) -> LatentMoments:
        """See :class:`PosteriorCodec`. Nothing is sampled."""
        video, audio = self.encode(clips)
        assert video is not None and audio is not None
        return LatentMoments(video, audio, None)

    def sound_moments(self, audio: NDArray[np.float32]) -> tuple[Tensor, Tensor | None]:
        """See :class:`PosteriorCodec`. Nothing is sampled."""
        return torch.from_numpy(self._levels(audio[None]))[0], None

    def decode(self, latents: Latents) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """See :class:`Codec`. Values beyond black, white, silence and full scale are clipped."""
        assert latents.video is not None and latents.audio is not None
        config = self.config
        cells = (
            latents.video.detach().float().cpu().numpy().transpose(0, 2, 3, 4, 1) * config.video_std + config.video_mean
        )
        scaled = latents.audio.detach().float().cpu().numpy()[:, 0] * config.audio_std + config.audio_mean
        levels = (1.0 - scaled) * (FLOOR_DB / 2.0)
        audio = synthesise(np.clip(levels, FLOOR_DB, 0.0), self._layout)
        return [(self._pixels(clip), sound) for clip, sound in zip(np.clip(cells, -1.0, 1.0), audio, strict=True)]

    def _levels(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Audio latents [B, 1, L, bands] of sound [B, S]."""
        scaled = 1.0 - analyse(audio, self._layout)[:, None] * (2.0 / FLOOR_DB)
        return np.ascontiguousarray((scaled - self.config.audio_mean) / self.config.audio_std, np.float32)

    def _pixels(self, cells: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Frames [T, H, W, 3] of one clip's cells [T, h, w, 3]."""
        unclipped = _resample(cells, *self._grow)
        pixels = np.clip(unclipped, -1.0, 1.0)
        if not np.array_equal(pixels, unclipped):
            missing = cells - _resample(pixels, *self._shrink)
            scale = self.config.video_scale
            pixels = np.clip(pixels + missing.repeat(scale, axis=1).repeat(scale, axis=2), -1.0, 1.0)
        return np.minimum(pixels * 127.5 + 128.0, 255.0).astype(np.uint8)

    def _require_whole_cells(self) -> None:
        scale = self.config.video_scale
        if self.shape.height_px % scale or self.shape.width_px % scale:
            raise ConfigError(
                found=f"a clip of {self.shape.height_px} x {self.shape.width_px} px with codec.video_scale {scale}",
                expected="a height and width that video_scale divides",
                fix="change clip.height_px, clip.width_px or codec.video_scale",
            )

    def _require_shape(self, clip: DecodedClip) -> None:
        if clip.frames is None or clip.audio is None:
            raise MediaError(
                found="a clip without " + ("picture" if clip.frames is None else "sound"),
                expected="both tracks",
                fix="remove the clip's row",
            )
        expected = (self.shape.num_frames, *_size(self.shape), 3)
        if clip.frames.shape != expected or clip.audio.shape != (self.shape.num_samples,):
            raise ValueError(
                f"expected frames {expected} and {self.shape.num_samples} samples, "
                f"found {clip.frames.shape} and {clip.audio.shape}"
            )


def _size(shape: ClipShape) -> tuple[int, int]:
    return shape.height_px, shape.width_px


def _band_layout(config: IdentityCodecSettings, shape: ClipShape) -> BandLayout:
    try:
        layout = BandLayout(shape.sample_rate_hz, config.audio_rate_hz, config.audio_bands)
        layout.num_frames(shape.num_samples)
    except ValueError as error:
        raise ConfigError(
            found=f"codec.audio_rate_hz {config.audio_rate_hz}, audio_bands {config.audio_bands}: {error}",
            expected="a whole number of audio frames per second and per clip, and bands that they resolve",
            fix="change codec.audio_rate_hz, codec.audio_bands, clip.sample_rate_hz or clip.num_frames",
        ) from error
    return layout


def _resample(
    pixels: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply ``rows`` [h', h] and ``columns`` [w', w] to pixels [..., h, w, C] -> [..., h', w', C]."""
    *lead, height, width, channels = pixels.shape
    tall = rows @ pixels.reshape(-1, height, width * channels)
    wide = columns @ tall.reshape(-1, width, channels)
    return wide.reshape(*lead, len(rows), len(columns), channels)


def _shrink(num_cells: int, scale: int) -> NDArray[np.float32]:
    """Matrix [cells, cells · scale] that averages ``scale`` neighbours."""
    return np.asarray(np.repeat(np.eye(num_cells), scale, axis=1) / scale, np.float32)


def _grow(shrink: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """Linear interpolation [cells · scale, cells] whose averages over cells equal the input: shrink @ grow = 1."""
    num_cells, num_pixels = shrink.shape
    centres = (np.arange(num_pixels) + 0.5) / scale - 0.5
    linear = np.clip(1.0 - np.abs(centres.clip(0, num_cells - 1)[:, None] - np.arange(num_cells)), 0.0, 1.0)
    return (linear @ np.linalg.inv(shrink @ linear)).astype(np.float32)
