"""CAVP score of JavisBench: mean over time of the cosine between pictures, at 4 per second, and sound, in the space of CAVP.

The original encodes the video again at 4 frames per second before it reads it; here the frames that are shown at those times are used.
Source: Luo et al. 2023, Diff-Foley; the evaluation code of JavisBench.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from avpref.domain import PICTURE_AND_SOUND, Dimension, Metric
from avpref.media.sound.kaiser_resampling import kaiser_best
from avpref.models.features.cavp import RATE_HZ, spectrogram
from avpref.rewards.frames import indices_at_rate
from avpref.rewards.model_scorer import ModelScorer, NotScorable, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS
from avpref.rewards.weights import benchmark_models, catalogue
from avpref.rewards.weights.published_networks import published_network, tiny_network

VERSION = 1
FPS_HZ, SIDE_PX, PICTURES_AT_ONCE = 4.0, 224, 40
CAVP_SCORE = Metric("cavp_score", "cosine", True, Dimension.AV, PICTURE_AND_SOUND)


@dataclass(frozen=True, eq=False)
class CavpInputs:
    """Pictures uint8 [4 · seconds, 224, 224, 3] and a spectrogram [128, 64 · seconds]."""

    pictures: np.ndarray
    image: Tensor


class CavpScore(ModelScorer[CavpInputs]):
    """The scorer ``cavp_score``. A clip of less than one second has no score."""

    not_of_scores = ("folder",)

    class Settings(BaseModel):
        """``preset``: ``tiny`` is a small network of random weights. ``folder`` is searched for the weights first."""

        model_config = ConfigDict(extra="forbid", frozen=True)
        preset: Literal["full", "tiny"] = "full"
        folder: str = ""

    def __init__(self, settings: Settings) -> None:
        is_tiny = settings.preset == "tiny"
        super().__init__(Placement(), MEANINGLESS if is_tiny else benchmark_models.CAVP.terms)
        self._is_tiny, self._folder = is_tiny, Path(settings.folder) if settings.folder else None
        self._network: Any = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return (CAVP_SCORE,)

    @property
    def fingerprint(self) -> str:
        """Version and identity of the weights. Raises InputError where they are absent."""
        if self._is_tiny:
            return f"{VERSION} tiny"
        return f"{VERSION} {catalogue.weights_id(catalogue.resolve(benchmark_models.CAVP, self._folder))}"

    def load(self, device: str) -> None:
        """Load the network on ``device``. Raises InputError where weights are absent or do not fit."""
        self._placement = Placement(device)
        network = tiny_network("cavp") if self._is_tiny else published_network("cavp", self._folder)
        self._network = network.to(device)

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> CavpInputs:
        """See the base class. Raises NotScorable for less than one second of either track."""
        media = clip.clip
        sound = media.channel_mean
        assert media.frames is not None and sound is not None
        seconds = int(media.duration_s)
        indices = indices_at_rate(len(media.frames), media.fps_hz, FPS_HZ)[: int(FPS_HZ) * seconds]
        if seconds < 1 or not len(indices):
            raise NotScorable(f"{media.duration_s:.2f} s long; CAVP needs a second")
        pictures = np.stack([_resized(media.frames[index]) for index in indices])
        return CavpInputs(pictures, spectrogram(kaiser_best(sound, media.sample_rate_hz, RATE_HZ), seconds))

    def measure(self, batch: Sequence[CavpInputs]) -> list[Mapping[str, float]]:
        """See the base class; clips are embedded one by one."""
        return [{CAVP_SCORE.name: self._score(clip)} for clip in batch]

    def _score(self, clip: CavpInputs) -> float:
        assert self._network is not None, "load comes before score"
        device = self.placement.device
        video = torch.from_numpy(clip.pictures).permute(3, 0, 1, 2)[None]
        parts = [part.to(device).float() / 255 for part in video.split(PICTURES_AT_ONCE, dim=2)]
        pictures = torch.cat([self._network.video_features(part)[0] for part in parts])
        sound = self._network.sound_features(clip.image[None].to(device))[0]
        steps = min(len(pictures), len(sound))
        return float((pictures[:steps] * sound[:steps]).sum(-1).mean())


def _resized(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [224, 224, 3], bilinear; the aspect is not kept, as published."""
    picture = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))
