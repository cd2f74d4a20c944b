"""The inputs of ImageBind: fifteen views of a clip's picture and three cuts of its sound.

Times, cuts and sizes are those of ``imagebind/data.py`` of the original and of the pytorchvideo functions that it calls, in the same
arithmetic, because other rounding would select another frame or shift a cut by a sample. Equal views are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.media.spectra import RATE_HZ, kaldi_fbank, resample
from avpref.models.features.clip_pictures import normalised_pixels
from avpref.models.imagebind.imagebind_towers import MEL_FRAMES, SIDE
from avpref.rewards.model_scorer import NotScorable

CLIP_S = 2
"""Duration in seconds of the pieces that views and cuts are taken from."""
NUM_PICTURE_CLIPS, NUM_SOUND_CLIPS = 5, 3
MEL_MEAN, MEL_STD = -4.268, 9.138

IndexRange = tuple[int, int]
"""First index, and the index after the last."""
HashableItem = TypeVar("HashableItem", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Views:
    """The distinct network inputs ``images``, and for each view of the published list its index ``uses`` in them."""

    images: tuple[Tensor, ...]
    uses: tuple[int, ...]


def picture_views(frames: np.ndarray, fps_hz: float) -> Views:
    """Frames uint8 [T, H, W, 3] → 15 views [3, 2, 224, 224], normalised: for each of five pieces, three crops.

    A square picture has one crop and a picture of at most 2 s one piece. Raises NotScorable for fewer than one frame in 2 s.
    """
    pieces, piece_of = _distinct(frame_pairs(len(frames), fps_hz))
    if any(last < first for first, last in pieces):
        raise NotScorable(f"no frame in a piece of {CLIP_S} s: {fps_hz:g} frames a second")
    pictures = [torch.stack([_resized(frames[index]) for index in piece], dim=1) for piece in pieces]
    corners, corner_of = _distinct(crop_corners(*pictures[0].shape[-2:]))
    images = tuple(picture[:, :, top : top + SIDE, left : left + SIDE] for picture in pictures for top, left in corners)
    return Views(images, tuple(piece * len(corners) + corner for piece in piece_of for corner in corner_of))


def frame_pairs(num_frames: int, fps_hz: float) -> tuple[tuple[int, int], ...]:
    """First and last frame (inclusive) of five pieces of 2 s, spread evenly from the clip's start to its end."""
    starts = _starts_s(num_frames / fps_hz, NUM_PICTURE_CLIPS)
    return tuple(
        (math.ceil(fps_hz * float(start)), min(math.ceil(fps_hz * float(start + CLIP_S)), num_frames) - 1)
        for start in starts
    )


def crop_corners(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Top and left pixel of three squares of side 224: left, centre and right, or top, centre and bottom of an upright picture."""
    middle = math.ceil((height - SIDE) / 2), math.ceil((width - SIDE) / 2)
    if height > width:
        return (0, middle[1]), middle, (height - SIDE, middle[1])
    return (middle[0], 0), middle, (middle[0], width - SIDE)


def _resized(frame: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] → float32 [3, 224, W'] or [3, H', 224], normalised; the long side is rounded down."""
    height, width = frame.shape[:2]
    short = min(height, width)
    long = math.floor(float(max(height, width)) / short * SIDE)
    size = (long, SIDE) if width < height else (SIDE, long)
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1).float() / 255.0
    return normalised_pixels(F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0])


def sound_16k(audio: np.ndarray, sample_rate_hz: int) -> Tensor:
    """Sound float32 [S] at ``sample_rate_hz`` → [S'] at 16 kHz."""
    return resample(torch.tensor(audio, dtype=torch.float32), sample_rate_hz, RATE_HZ)


def sound_cuts(num_samples: int) -> tuple[IndexRange, ...]:
    """Three cuts of 2 s at 16 kHz, spread evenly from start to end; for a shorter sound each cut starts at 0.

    As in the original, the length in seconds is a double and all later arithmetic is exact.
    """
    starts = _starts_s(num_samples / RATE_HZ, NUM_SOUND_CLIPS)
    return tuple((math.floor(start * RATE_HZ), math.floor((start + CLIP_S) * RATE_HZ)) for start in starts)


def sound_views(sound: Tensor, cuts: Sequence[IndexRange]) -> Views:
    """``cuts`` of a sound [S] at 16 kHz → normalised mel spectrograms [1, 128, 204]. Cuts may extend beyond the sound's end."""
    distinct, uses = _distinct(cuts)
    return Views(tuple(_mel_spectrogram(sound[start:end]) for start, end in distinct), uses)


def _mel_spectrogram(cut: Tensor) -> Tensor:
    """[S] → [1, 128, 204]: log mel bands, padded with zeros *before* they are normalised."""
    bands = kaldi_fbank((cut - cut.mean())[None])[0].T
    padded = F.pad(bands[:, :MEL_FRAMES], (0, max(0, MEL_FRAMES - bands.shape[1])))
    return ((padded - MEL_MEAN) / MEL_STD)[None]


def _starts_s(duration_s: float, num_clips: int) -> list[Fraction]:
    slack = Fraction(max(duration_s - CLIP_S, 0))
    return [slack / (num_clips - 1) * index for index in range(num_clips)]


def _distinct(keys: Sequence[HashableItem]) -> tuple[list[HashableItem], tuple[int, ...]]:
    """The distinct ``keys`` in order, and for each of ``keys`` its index in them."""
    distinct = list(dict.fromkeys(keys))
    return distinct, tuple(distinct.index(key) for key in keys)


def embed_views(embed: Callable[[Tensor], Tensor], views: Sequence[Views], device: str, at_once: int) -> list[Tensor]:
    """For each of ``views`` the embeddings [number of uses, E] of its published list, float32 on the CPU.

    ``embed`` is called on ``device`` with the images of all of them, stacked, at most ``at_once`` at a time.
    """
    images = [image for clip in views for image in clip.images]
    parts = [images[first : first + at_once] for first in range(0, len(images), at_once)]
    embeddings = torch.cat([embed(torch.stack(part).to(device)) for part in parts]).cpu()
    by_clip = embeddings.split([len(clip.images) for clip in views])
    return [distinct[list(clip.uses)] for distinct, clip in zip(by_clip, views, strict=True)]
