"""Text states that the synchrony prior reads: those of ImageBind's text tower, or of an encoder without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from avpref.config.schema import Settings
from avpref.config.training.prior_settings import ImageBindStates, PriorText, WordStates
from avpref.flows.workers.generator import device_of
from avpref.flows.workers.text_state_worker import TextStateWorker
from avpref.identity import digest
from avpref.models.imagebind.clip_text import CONTEXT, LongPrompts, encode, in_context
from avpref.models.imagebind.imagebind_towers import FULL, TINY, Modality, Towers
from avpref.models.text import TextBatch, TextEncoder, WordText
from avpref.rewards.imagebind.imagebind import TINY_WEIGHTS, random_towers, read_towers
from avpref.rewards.model_scorer import Placement
from avpref.rewards.weights import catalogue as weights
from avpref.storage.files import Files
from avpref.storage.unit_files import UnitFiles

VERSION = 1


class ImageBindText:
    """All 77 states of the last block of ImageBind's text tower, before its head; states after the end of a text count too.

    Texts are cut to 77 ids without their end id, as in the released training.
    """

    def __init__(self, towers: Towers, fingerprint: str) -> None:
        self._towers, self.fingerprint = towers, fingerprint

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [B, 77, width] float32 and a mask of ones."""
        ids = torch.tensor([in_context(encode(text), LongPrompts.JAVISBENCH) for text in texts])
        states = self._towers.text_states(ids.to(next(self._towers.parameters()).device)).float().cpu()
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


def open_prior_text(text: PriorText, device: str = "cpu") -> TextEncoder:
    """The encoder that ``text`` describes. Raises InputError where weights are absent."""
    match text:
        case WordStates():
            return WordText(text.dim, text.length)
        case ImageBindStates():
            placement = Placement(device, getattr(torch, text.dtype))
            modalities = (Modality.TEXT,)
            if text.preset == "tiny":
                return ImageBindText(random_towers(TINY, placement, modalities), prior_text_identity(text))
            (path,) = _paths(text).values()
            return ImageBindText(read_towers(path, placement, modalities), prior_text_identity(text))


def prior_text_identity(text: PriorText) -> str:
    """Hash of everything that the states depend on, weights included. Raises InputError where weights are absent."""
    match text:
        case WordStates():
            return WordText(text.dim, text.length).fingerprint
        case ImageBindStates():
            weights_id = TINY_WEIGHTS if text.preset == "tiny" else weights.weights_id(_paths(text))
            return digest("imagebind text states", VERSION, weights_id, text.dtype)


def prior_text_shape(text: PriorText) -> tuple[int, int]:
    """Number and width of the states of a text."""
    match text:
        case WordStates():
            return text.length, text.dim
        case ImageBindStates():
            return CONTEXT, (TINY if text.preset == "tiny" else FULL).text.dim


def _paths(text: ImageBindStates) -> Mapping[str, Path]:
    return weights.resolve(weights.IMAGEBIND, Path(text.folder) if text.folder else None)
