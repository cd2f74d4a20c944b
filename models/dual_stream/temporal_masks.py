"""Masks of latents in time: which frames are to be generated and which are known, and the mixture that training draws from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TRAINING_MIXTURE: Mapping[str, float] = {
    "random": 0.01,
    "video_to_audio": 0.05,
    "audio_to_video": 0.05,
    "sound_image_animate": 0.03,
    "interpolate": 0.03,
    "quarter_head": 0.05,
    "image_head": 0.05,
    **{f"quarter_{end}": 0.005 for end in ("random", "tail", "head_tail")},
    **{f"image_{end}": 0.005 for end in ("random", "tail", "head_tail")},
}
"""Released shares of the masks; the rest has none."""
IDENTITY = "identity"
AUDIO_KNOWN = frozenset({"sound_image_animate", "audio_to_video"})
"""Masks that give the whole sound."""


@dataclass(frozen=True, eq=False)
class TemporalMasks:
    """``video`` [T] and ``audio`` [L]: True where latents are to be generated."""

    video: Tensor
    audio: Tensor


def draw_masks(num_video: int, num_audio: int, generator: torch.Generator) -> TemporalMasks:
    """Masks of one clip from the released mixture."""
    name = draw_name(generator)
    video = video_mask(name, num_video, generator)
    return TemporalMasks(video, audio_mask(name, video, num_audio))


def draw_name(generator: torch.Generator) -> str:
    """The name of a mask, drawn from :data:`TRAINING_MIXTURE`; ``identity`` for none."""
    value = torch.rand((), generator=generator).item()
    for name, share in TRAINING_MIXTURE.items():
        if value < share:
            return name
        value -= share
    return IDENTITY


def video_mask(name: str, num: int, generator: torch.Generator) -> Tensor:
    """The mask of a video of ``num`` latent frames, bool [num]. Raises ValueError for an unknown name.

    ``quarter_*`` give 1 to ⌊num / 4⌋ frames at the named ends or at a random place, ``image_*`` one; ``random`` gives each with a
    probability drawn from 0.1 to 0.9; ``interpolate`` gives every second one.
    """
    mask = torch.ones(num, dtype=torch.bool)
    if name in (IDENTITY, "audio_to_video") or num < 2:
        return mask if name != "video_to_audio" else torch.zeros_like(mask)
    match name.split("_", 1):
        case ["video", _]:
            mask[:] = False
        case ["sound", _]:
            mask[0] = False
        case ["random"]:
            share = 0.1 + 0.8 * torch.rand((), generator=generator).item()
            mask[torch.rand(num, generator=generator) > share] = False
        case ["interpolate" | "intepolate"]:
            mask[::2] = False
        case ["quarter" | "image" as kind, end]:
            most = max(1, math.floor(num / 4)) if kind == "quarter" else 1
            count = int(torch.randint(1, most + 1, (), generator=generator))
            _give(mask, end, count, generator)
        case _:
            raise ValueError(f"unknown mask {name!r}; known: {', '.join([IDENTITY, *TRAINING_MIXTURE])}")
    return mask


def _give(mask: Tensor, end: str, count: int, generator: torch.Generator) -> None:
    """Mark ``count`` frames as known: at the head, at the tail, at both, or from a random frame on."""
    if end == "random":
        start = int(torch.randint(0, len(mask) - count + 1, (), generator=generator))
        mask[start : start + count] = False
        return
    if "head" in end:
        mask[:count] = False
    if "tail" in end:
        mask[-count:] = False


def audio_mask(name: str, video: Tensor, num: int) -> Tensor:
    """The mask of ``num`` audio latent frames that belongs to mask ``name`` of the video, bool [num].

    The video's mask stretched to the nearest frame; all known for :data:`AUDIO_KNOWN`; all to be generated for other ``image_*``
    masks and ``video_to_audio``.
    """
    if name in AUDIO_KNOWN:
        return torch.zeros(num, dtype=torch.bool)
    if name.startswith("image_") or name in ("video_to_audio", IDENTITY):
        return torch.ones(num, dtype=torch.bool)
    index = torch.arange(num) * len(video) // num
    return video[index]
