"""IB-Score of av-benchmark: the cosine of picture and sound in ImageBind's space, with that tool's own views of the picture.

Frames at 0.5 per second, of which int(0.5 · length) are used; three crops of each; pairs of neighbouring frames are the views, (T − 1) × 3
of them. The sound is cut as in JavisBench, from the whole file. The rule is written from its description: no vectors of the
original cover it. Source: av-benchmark (MMAudio); Girdhar et al. 2023, ImageBind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from avpref.domain import PICTURE_AND_SOUND, Dimension, Metric
from avpref.models.features.clip_pictures import normalised_pixels
from avpref.models.imagebind.imagebind_towers import SIDE, TINY, Modality, Towers
from avpref.rewards.frames import indices_at_rate
from avpref.rewards.imagebind.imagebind import COSINE_EPS, IMAGEBIND_TERMS, first_channel, random_towers, read_towers
from avpref.rewards.imagebind.imagebind_views import (
    Views,
    crop_corners,
    embed_views,
    sound_16k,
    sound_cuts,
    sound_views,
)
from avpref.rewards.model_scorer import ModelScorer, NotScorable, Placement, Prepared
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS
from avpref.rewards.weights import catalogue

VERSION = 1
FPS_HZ, FEWEST_FRAMES, VIEWS_AT_ONCE = 0.5, 2, 12
SLIDING = Metric("imagebind_sliding", "cosine", True, Dimension.AV, PICTURE_AND_SOUND)
USED_MODALITIES = (Modality.VISION, Modality.AUDIO)


@dataclass(frozen=True, eq=False)
class SlidingInputs:
    """Views [3, 2, 224, 224] of the picture, and cuts of the sound."""

    picture: Views
    sound: Views


class ImageBindSliding(ModelScorer[SlidingInputs]):
    """The scorer ``imagebind_sliding``. A clip of less than two frames at 0.5 per second (4 s) has no score."""

    not_of_scores = ("folder",)

    class Settings(BaseModel):
        """``length_s``: seconds of the picture. ``preset``: ``tiny`` is a small network of random weights."""

        model_config = ConfigDict(extra="forbid", frozen=True)
        length_s: float = Field(default=8.0, gt=0)
        preset: Literal["full", "tiny"] = "full"
        folder: str = ""

    def __init__(self, settings: Settings) -> None:
        is_tiny = settings.preset == "tiny"
        terms = replace(MEANINGLESS, sound=IMAGEBIND_TERMS.sound) if is_tiny else IMAGEBIND_TERMS
        super().__init__(Placement(), terms)
        self._length_s, self._is_tiny = settings.length_s, is_tiny
        self._folder = Path(settings.folder) if settings.folder else None
        self._towers: Towers | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return (SLIDING,)

    @property
    def fingerprint(self) -> str:
        """Version and identity of the weights. Raises InputError where they are absent."""
        if self._is_tiny:
            return f"{VERSION} tiny"
        return f"{VERSION} {catalogue.weights_id(catalogue.resolve(catalogue.IMAGEBIND, self._folder))}"

    def load(self, device: str) -> None:
        """Load the towers of vision and audio on ``device``. Raises InputError where weights are absent or do not fit."""
        self._placement = Placement(device)
        if self._is_tiny:
            self._towers = random_towers(TINY, self._placement, USED_MODALITIES)
        else:
            (path,) = catalogue.resolve(catalogue.IMAGEBIND, self._folder).values()
            self._towers = read_towers(path, self._placement, USED_MODALITIES)

    def prepare(self, clip: ScorableClip) -> Prepared[SlidingInputs]:
        """See the base class; the first channel is used."""
        return super().prepare(first_channel(clip))

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> SlidingInputs:
        """See the base class. Raises NotScorable for fewer than two frames at 0.5 per second."""
        frames, audio = clip.clip.frames, clip.clip.audio
        assert frames is not None and audio is not None
        indices = indices_at_rate(len(frames), clip.clip.fps_hz, FPS_HZ)[: int(FPS_HZ * self._length_s)]
        if len(indices) < FEWEST_FRAMES:
            raise NotScorable(f"{clip.clip.duration_s:.2f} s long; ImageBind's sliding views need 4 s")
        sound = sound_16k(audio, clip.clip.sample_rate_hz)
        return SlidingInputs(sliding_views(frames, indices), sound_views(sound, sound_cuts(len(sound))))

    def measure(self, batch: Sequence[SlidingInputs]) -> list[Mapping[str, float]]:
        """See the base class; clips are embedded one by one."""
        return [{SLIDING.name: self._score(clip)} for clip in batch]

    def _score(self, clip: SlidingInputs) -> float:
        towers, device = self._towers, self.placement.device
        assert towers is not None, "load comes before score"
        (picture,) = embed_views(towers.embed_images, [clip.picture], device, VIEWS_AT_ONCE)
        (sound,) = embed_views(towers.embed_sounds, [clip.sound], device, VIEWS_AT_ONCE)
        means = picture.mean(0).double(), sound.mean(0).double()
        return float(functional.cosine_similarity(*means, dim=0, eps=COSINE_EPS))


def sliding_views(frames: np.ndarray, indices: np.ndarray) -> Views:
    """Pairs of neighbouring frames among ``indices``, in three crops each: views [3, 2, 224, 224]."""
    pictures = torch.stack([_resized(frames[index]) for index in indices], dim=1)
    corners = dict.fromkeys(crop_corners(*pictures.shape[-2:]))
    images = tuple(
        pictures[:, start : start + 2, top : top + SIDE, left : left + SIDE]
        for start in range(len(indices) - 1)
        for top, left in corners
    )
    return Views(images, tuple(range(len(images))))


def _resized(frame: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] → normalised float32 with a short side of 224, bicubic with antialiasing in bytes."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (SIDE * height // short, SIDE * width // short)
    planes = torch.tensor(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    if size != (height, width):
        planes = functional.interpolate(planes, size, mode="bicubic", antialias=True)
    return normalised_pixels(planes[0].float() / 255)
