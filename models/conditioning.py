"""Conditional generation from video, audio or parts of them by masking (JavisDiT, arXiv 2503.23377, section E.7).

Conditioning frames (latent frames with known values) have timestep 0 (data) and keep their values through all steps; the other
frames are sampled as usual. The paper trains with such masks; the released v1.0 weights were trained without them. With weights
from training without masks, conditioning frames come out unchanged, but the other frames may not follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from avpref.models.flow import Latents, LatentShapes
from avpref.models.positions import TokenGrid


class LatentTimes(NamedTuple):
    """Timesteps in [0, 1] per latent frame: video [B, T], audio [B, L]; None where a modality is absent."""

    video: Tensor | None
    audio: Tensor | None


@dataclass(frozen=True)
class ConditioningFrames:
    """Known latent frames of one modality.

    ``latents`` [B, C, frames, ...] have the shape of the sampled latents, with one row per candidate or one row for all. They are
    read only where ``mask`` (bool, [frames] or [B, frames]) is true. Raises ValueError if the two do not match.
    """

    latents: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        rows, frames = self.latents.shape[0], self.latents.shape[2]
        if self.mask.dtype != torch.bool or self.mask.ndim not in (1, 2) or self.mask.shape[-1] != frames:
            raise ValueError(
                f"a mask of {frames} latent frames is bool [{frames}] or [rows, {frames}], "
                f"found {self.mask.dtype} {tuple(self.mask.shape)}"
            )
        if self.mask.ndim == 2 and 1 not in (rows, len(self.mask)) and rows != len(self.mask):
            raise ValueError(f"{rows} rows of conditioning latents with {len(self.mask)} rows of masks")

    def apply(self, x: Tensor) -> Tensor:
        """x [B, C, frames, ...] with the known values where ``mask`` is true. Raises ValueError for another shape."""
        if self.latents.shape[1:] != x.shape[1:] or not {len(self.latents), self._num_masks} <= {1, len(x)}:
            raise ValueError(
                f"conditioning latents {tuple(self.latents.shape)} with {self._num_masks} rows of masks do not fit the noise, "
                f"{tuple(x.shape)}"
            )
        mask = self.mask.view(self._num_masks, 1, -1, *[1] * (x.ndim - 3))
        return torch.where(mask, self.latents.to(x.dtype), x)

    def times(self, t: Tensor) -> Tensor:
        """Timesteps [B, frames] from t [B]: 0 for conditioning frames, t for the others."""
        return t[:, None] * ~self.mask

    @property
    def _num_masks(self) -> int:
        return 1 if self.mask.ndim == 1 else len(self.mask)


@dataclass(frozen=True)
class Conditioning:
    """Conditioning frames per modality; None for a modality that is sampled entirely."""

    video: ConditioningFrames | None = None
    audio: ConditioningFrames | None = None

    def apply(self, x: Latents) -> Latents:
        """``x`` with the conditioning frames in place.

        Invariant: they are exactly the conditioning latents, as float32. Raises ValueError if they do not fit ``x``.
        """
        return Latents(*(_apply(*parts) for parts in (("video", self.video, x.video), ("audio", self.audio, x.audio))))

    def times(self, t: Tensor, x: Latents) -> LatentTimes:
        """Timesteps of all latent frames of ``x``, B rows: 0 for conditioning frames, otherwise those of t [B]."""
        pairs = ((self.video, x.video), (self.audio, x.audio))
        return LatentTimes(*(_times(frames, t, latent) for frames, latent in pairs))


def image_to_av(image: Tensor, shapes: LatentShapes) -> Conditioning:
    """Image to audio and video: the first latent frame [B, C, 1, h, w] is known."""
    return Conditioning(video=_leading("video", image, shapes.video))


def audio_to_video(audio: Tensor) -> Conditioning:
    """Audio to video: all audio latents [B, C, L, M] are known."""
    return Conditioning(audio=_whole(audio))


def video_to_audio(video: Tensor) -> Conditioning:
    """Video to audio: all video latents [B, C, T, h, w] are known."""
    return Conditioning(video=_whole(video))


def image_and_audio_to_video(image: Tensor, audio: Tensor, shapes: LatentShapes) -> Conditioning:
    """Audio and image to video: the first latent frame [B, C, 1, h, w] and all audio latents [B, C, L, M] are known."""
    return Conditioning(video=_leading("video", image, shapes.video), audio=_whole(audio))


def extend(start: Latents, shapes: LatentShapes) -> Conditioning:
    """Extension: the first latent frames of both are known, video [B, C, k, h, w] and audio [B, C, k', M].

    k' must be a whole number of audio patches; one modality may be None. Raises ValueError if ``start`` does not fit ``shapes``.
    """
    pairs = (("video", start.video, shapes.video), ("audio", start.audio, shapes.audio))
    return Conditioning(*(None if part is None else _leading(name, part, shape) for name, part, shape in pairs))


def token_times(t: Tensor | LatentTimes, latents: Latents, grid: TokenGrid) -> tuple[Tensor, Tensor | None]:
    """Distinct times [B, F], and for every token the column of its time [N].

    For ``t`` [B] the result is ([B, 1], None): all tokens share the time. Otherwise F is the number of patches in time, first video
    then audio. Raises ValueError for times that do not fit the latents or differ between the latent frames of one patch.
    """
    if isinstance(t, Tensor):
        return t[:, None], None
    times, sizes = [], []
    per_frame = grid.video_rows * grid.video_columns
    parts = (
        ("video", t.video, latents.video, grid.video_frames, per_frame),
        ("audio", t.audio, latents.audio, grid.audio_steps, grid.audio_rows),
    )
    for name, time, latent, num_patches, num_tokens in parts:
        _check_times(name, time, latent)
        if time is not None:
            times.append(_per_patch(name, time, num_patches))
            sizes += [num_tokens] * num_patches
    merged = torch.cat(times, dim=1)
    repeats = torch.tensor(sizes, device=merged.device)
    return merged, torch.arange(len(sizes), device=merged.device).repeat_interleave(repeats, output_size=sum(sizes))


def _apply(name: str, frames: ConditioningFrames | None, x: Tensor | None) -> Tensor | None:
    if frames is None:
        return x
    if x is None:
        raise ValueError(f"{name} latents were given to a network without {name}")
    return frames.apply(x)


def _times(frames: ConditioningFrames | None, t: Tensor, latent: Tensor | None) -> Tensor | None:
    if latent is None:
        return None
    return t[:, None].expand(-1, latent.shape[2]) if frames is None else frames.times(t)


def _whole(latents: Tensor) -> ConditioningFrames:
    return ConditioningFrames(latents, torch.ones(latents.shape[2], dtype=torch.bool, device=latents.device))


def _leading(name: str, start: Tensor, shape: tuple[int, ...] | None) -> ConditioningFrames:
    """The frames ``start`` [B, C, k, ...] at the beginning of latents of ``shape`` (C, frames, ...)."""
    count = start.shape[2]
    if shape is None or (start.shape[1], *start.shape[3:]) != (shape[0], *shape[2:]) or not 1 <= count <= shape[1]:
        raise ValueError(f"{name} latents {tuple(start.shape)} cannot be the beginning of latents of {shape}")
    latents = start.new_zeros(start.shape[0], *shape)
    latents[:, :, :count] = start
    return ConditioningFrames(latents, torch.arange(shape[1], device=start.device) < count)


def _check_times(name: str, time: Tensor | None, latent: Tensor | None) -> None:
    expected = None if latent is None else (latent.shape[0], latent.shape[2])
    shape = None if time is None else tuple(time.shape)
    if shape != expected:
        raise ValueError(f"times of {name} latents must be of shape {expected}, found {shape}")


def _per_patch(name: str, time: Tensor, num_patches: int) -> Tensor:
    """Times [B, num_patches] of patches from those of their latent frames [B, frames]."""
    cells = time.unflatten(1, (num_patches, -1))
    first = cells[..., 0]
    if cells.shape[2] > 1 and not torch.equal(cells, first[..., None].expand_as(cells)):
        raise ValueError(
            f"a patch spans {cells.shape[2]} latent frames of {name}, and they must share their timestep: "
            "give whole patches"
        )
    return first
