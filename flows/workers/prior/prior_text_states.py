"""Text states that the synchrony prior reads: those of ImageBind's text tower, or of an encoder without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from avpref.config.schema import Settings
from avpref.config.training.prior_settings import ImageBindStates, PriorTextSettings, WordStates
from avpref.flows.workers.generator import device_of
from avpref.flows.workers.text_state_worker import TextStateWorker
from avpref.identity import digest
from avpref.models.imagebind.clip_text import CONTEXT
from avpref.models.imagebind.imagebind_towers import FULL, TINY, causal_mask
from avpref.models.imagebind.text_tower import MASK, TextTower, read_text_tower
from avpref.models.text import TextBatch, TextEncoder, WordText
from avpref.rewards.imagebind.imagebind import TINY_WEIGHTS
from avpref.rewards.random_weights import fill
from avpref.rewards.weights import catalogue as weights
from avpref.storage.files import Files
from avpref.storage.unit_files import UnitFiles
from avpref.storage.weight_files import on_meta

VERSION = 1


class ImageBindText:
    """All 77 states of the last block of ImageBind's text tower; states after the end of a text count too."""

    def __init__(self, tower: TextTower, fingerprint: str) -> None:
        self._tower, self.fingerprint = tower, fingerprint

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [B, 77, width] float32 and a mask of ones."""
        states = self._tower(texts).float().cpu()
        return TextBatch(states, torch.ones(states.shape[:2]))


@dataclass(frozen=True)
class PriorTextSpec:
    """Builds workers that store the states of texts for the prior; shards are committed to ``store``."""

    store: Files
    settings: Settings
    files: UnitFiles

    def build(self) -> TextStateWorker:
        """Open the encoder."""
        torch.set_num_threads(1)
        assert self.settings.prior is not None
        encoder = open_prior_text(self.settings.prior.text, device_of(self.settings))
        return TextStateWorker(self.store, self.files, encoder)


def open_prior_text(text: PriorTextSettings, device: str = "cpu") -> TextEncoder:
    """The encoder that ``text`` describes. Raises InputError where weights are absent."""
    match text:
        case WordStates():
            return WordText(text.dim, text.length)
        case ImageBindStates(preset="tiny"):
            return ImageBindText(_random_tower(device), prior_text_identity(text))
        case ImageBindStates():
            (path,) = _paths(text).values()
            return ImageBindText(read_text_tower(path, FULL.text, device), prior_text_identity(text))


def prior_text_identity(text: PriorTextSettings) -> str:
    """Hash of everything that the states depend on, weights included. Raises InputError where weights are absent."""
    match text:
        case WordStates():
            return WordText(text.dim, text.length).fingerprint
        case ImageBindStates():
            weights_id = TINY_WEIGHTS if text.preset == "tiny" else weights.weights_id(_paths(text))
            return digest("imagebind text states", VERSION, weights_id)


def prior_text_shape(text: PriorTextSettings) -> tuple[int, int]:
    """Number and width of the states of a text."""
    match text:
        case WordStates():
            return text.length, text.dim
        case ImageBindStates():
            return CONTEXT, (TINY if text.preset == "tiny" else FULL).text.dim


def _random_tower(device: str) -> TextTower:
    tower = on_meta(lambda: TextTower(TINY.text))
    fill(tower)
    tower.load_state_dict({MASK: causal_mask()}, strict=False, assign=True)
    return tower.to(device)


def _paths(text: ImageBindStates) -> Mapping[str, Path]:
    return weights.resolve(weights.IMAGEBIND, Path(text.folder) if text.folder else None)
