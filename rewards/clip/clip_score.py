"""CLIP score of JavisBench: mean over 48 frames of the cosine between picture and text, in the space of CLIP ViT-B/32.

Numbers are float32 everywhere; published ones were computed in half precision on a GPU. Source: Radford et al. 2021; the
evaluation code of JavisBench.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from avpref.domain import PROMPT_AND_PICTURE, Dimension, Metric
from avpref.models.features.clip_network import ClipNetwork, load_clip, tiny_clip_config, vit_b_32_config
from avpref.models.features.clip_pictures import NUM_FRAMES, ChannelOrder, cropped, network_input, spread_frames
from avpref.models.imagebind.clip_text import LongPrompts, encode, in_context
from avpref.rewards.model_scorer import ModelScorer, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS, fill
from avpref.rewards.weights import benchmark_models, catalogue
from avpref.storage.weight_files import read_weights

VERSION = 1
CLIP_SCORE = Metric("clip_score", "cosine", True, Dimension.VIDEO, PROMPT_AND_PICTURE)


@dataclass(frozen=True, eq=False)
class ClipScoreInputs:
    """Pictures uint8 [F, 224, 224, 3], the distinct ones among 48, the use of each of the 48, and token ids [77]."""

    pictures: np.ndarray
    uses: np.ndarray
    ids: tuple[int, ...]


class ClipScore(ModelScorer[ClipScoreInputs]):
    """The scorer ``clip_score``."""

    text_metrics = frozenset({CLIP_SCORE.name})
    not_of_scores = ("folder",)

    class Settings(BaseModel):
        """``channels``: ``bgr`` as published, where red and blue are swapped by mistake, or ``rgb``.

        ``preset``: ``tiny`` is a small network of random weights. ``folder`` is searched for the weights first.
        """

        model_config = ConfigDict(extra="forbid", frozen=True)
        channels: ChannelOrder = "bgr"
        preset: Literal["full", "tiny"] = "full"
        folder: str = ""

    def __init__(self, settings: Settings) -> None:
        is_tiny = settings.preset == "tiny"
        super().__init__(Placement(), MEANINGLESS if is_tiny else benchmark_models.CLIP.terms)
        self._settings, self._is_tiny = settings, is_tiny
        self._network: ClipNetwork | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return (CLIP_SCORE,)

    @property
    def fingerprint(self) -> str:
        """Version and identity of the weights. Raises InputError where they are absent."""
        return f"{VERSION} tiny" if self._is_tiny else f"{VERSION} {catalogue.weights_id(self._paths())}"

    def load(self, device: str) -> None:
        """Load the network on ``device``. Raises InputError where weights are absent or do not fit."""
        self._placement = Placement(device)
        if self._is_tiny:
            self._network = tiny_clip(tiny_clip_config(), device)
        else:
            (path,) = self._paths().values()
            self._network = load_clip(vit_b_32_config(), read_weights(path), device)

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> ClipScoreInputs:
        """See the base class."""
        frames = clip.clip.frames
        assert frames is not None
        distinct, uses = np.unique(spread_frames(len(frames), NUM_FRAMES), return_inverse=True)
        pictures = np.stack([cropped(frames[index], self._settings.channels) for index in distinct])
        return ClipScoreInputs(pictures, uses, in_context(encode(clip.text), LongPrompts.KEEP_END))

    def measure(self, batch: Sequence[ClipScoreInputs]) -> list[Mapping[str, float]]:
        """See the base class; clips are embedded one by one."""
        return [{CLIP_SCORE.name: self._score(clip)} for clip in batch]

    def _score(self, clip: ClipScoreInputs) -> float:
        assert self._network is not None, "load comes before score"
        device = self.placement.device
        pictures: Tensor = self._network.picture_features(network_input(clip.pictures).to(device))
        text = self._network.text_features(torch.tensor([clip.ids], device=device))
        return float((pictures @ text.T)[torch.from_numpy(clip.uses)].mean())

    def _paths(self) -> Mapping[str, Path]:
        return catalogue.resolve(benchmark_models.CLIP, Path(self._settings.folder) if self._settings.folder else None)


def tiny_clip(config: CLIPConfig, device: str = "cpu") -> ClipNetwork:
    """CLIP of the sizes of ``config`` with random weights: its numbers mean nothing."""
    with torch.random.fork_rng(devices=[]):
        model = CLIPModel(config).eval().requires_grad_(False)
    fill(model)
    return ClipNetwork(model, device)
