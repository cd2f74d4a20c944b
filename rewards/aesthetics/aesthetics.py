"""How much people like a picture, by LAION's aesthetic predictor (C. Schuhmann, "Improved Aesthetic Predictor", 2022): about 1 to 10.

A chain of linear layers (768, 1024, 128, 64, 16, 1) maps the unit vector of CLIP ViT-L/14 to a rating. As in JavisDiT's curation, a clip's
number is the mean over the frames at 10, 50 and 90 % of it. The settings name the folder of CLIP (``config.json`` and
``model.safetensors``, as on the hub) and the file of the predictor; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from avpref.domain import PICTURE, Dimension, Metric, Score, Terms
from avpref.errors import InputError
from avpref.identity import digest, file_sha256
from avpref.rewards.protocol import ScorableClip, measured, skipped

VERSION = 1
PLACES = (0.1, 0.5, 0.9)
HEAD_LAYERS = ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Aesthetics:
    """The scorer ``aesthetics``; see :mod:`avpref.rewards.outside.declaration`."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("aesthetic_score", "rating, 1-10", True, Dimension.VIDEO, PICTURE),)
    terms: ClassVar[Terms] = Terms("Apache-2.0 (predictor), MIT (CLIP)", commercial_use=True)
    has_canary: ClassVar[bool] = True

    class Settings(BaseModel):
        """The files: ``clip`` is a folder, ``head`` a file of the five layers (.safetensors or .pth)."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        clip: str = Field(min_length=1)
        head: str = Field(min_length=1)

    def __init__(self, settings: Settings) -> None:
        self._config, self._weights = Path(settings.clip) / CONFIG_FILE, Path(settings.clip) / WEIGHTS_FILE
        self._head = Path(settings.head)
        for path in (self._config, self._weights, self._head):
            if not path.is_file():
                raise InputError(
                    f"scorer aesthetics: no file {path}",
                    "openai/clip-vit-large-patch14 (config.json, model.safetensors) and the predictor "
                    "sac+logos+ava1-l14-linearMSE.pth",
                    "download both, and name them in the settings clip and head",
                )
        self._network: Any = None
        self._layers: list[tuple[Any, Any]] = []

    @cached_property
    def fingerprint(self) -> str:
        """Hash of this file's version and of the bytes of the files."""
        return digest("aesthetics", VERSION, *(file_sha256(path) for path in (self._config, self._weights, self._head)))

    def load(self, device: str) -> None:
        """Load both networks. Raises InputError for files with other tensors."""
        import torch
        from safetensors.torch import load_file
        from transformers import CLIPConfig

        from avpref.models.features.clip_network import load_clip

        tensors = load_file(self._weights)
        self._network = load_clip(CLIPConfig.from_pretrained(str(self._config.parent)), tensors)
        is_pickled = self._head.suffix != ".safetensors"
        head = torch.load(self._head, map_location="cpu", weights_only=True) if is_pickled else load_file(self._head)
        wanted = {f"{layer}.{part}" for layer in HEAD_LAYERS for part in ("weight", "bias")}
        if set(head) != wanted:
            found = f"{self._head.name} holds {', '.join(sorted(head))}"
            raise InputError(found, ", ".join(sorted(wanted)), "name the file of the predictor in the setting head")
        self._layers = [(head[f"{layer}.weight"].float(), head[f"{layer}.bias"].float()) for layer in HEAD_LAYERS]

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [[self._score(clip)] for clip in clips]

    def _score(self, clip: ScorableClip) -> Score:
        if clip.clip.frames is None:
            return skipped(clip.candidate_id, self.metrics[0], "no video track")
        return measured(clip.candidate_id, self.metrics[0], self.rating(clip.clip.frames))

    def rating(self, frames: NDArray[np.uint8]) -> float:
        """The mean rating of the frames at 10, 50 and 90 % of RGB frames [T, H, W, 3]."""
        import torch

        from avpref.models.features.clip_pictures import cropped, network_input

        chosen = [min(len(frames) - 1, int(place * len(frames))) for place in PLACES]
        pictures = np.stack([cropped(frames[index], "rgb") for index in chosen])
        with torch.no_grad():
            values = self._network.picture_features(network_input(pictures))
            for weight, bias in self._layers:
                values = torch.nn.functional.linear(values, weight, bias)
        return float(values.double().mean())
