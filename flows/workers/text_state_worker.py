"""Workers that store the hidden states of texts for training: each text once, its tokens alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avpref.config.schema import Settings
from avpref.datasets.latents import TEXT_STATES, EncodedSample, LatentArray
from avpref.execution.contract import Receipt
from avpref.flows.workers.generator import device_of, open_text_encoder
from avpref.models.text import TextEncoder
from avpref.storage.files import Files
from avpref.storage.latents.latent_units import commit_samples
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


@dataclass(frozen=True)
class TextStateItem:
    """A text whose states are stored."""

    item_id: str
    text: str


@dataclass(frozen=True)
class TextStateSpec:
    """Builds workers that encode texts; an encoder with weights keeps its states in ``runs``, shards go to ``store``."""

    runs: Path
    store: Files
    settings: Settings
    files: UnitFiles

    def build(self) -> TextStateWorker:
        """Open the encoder. Its weights are loaded with the first text whose states it does not have yet."""
        torch.set_num_threads(1)
        encoder = open_text_encoder(self.settings, self.runs, device_of(self.settings))
        return TextStateWorker(self.store, self.files, encoder)


@dataclass(frozen=True)
class TextStateWorker:
    """Encodes units of texts and commits their states as shards."""

    store: Files
    files: UnitFiles
    encoder: TextEncoder

    def run(self, unit: Unit[TextStateItem]) -> Receipt:
        """Commit the states of ``unit``'s items."""
        started = time.perf_counter()
        commit_samples(self.store, self.files, unit, [self._sample(item) for item in unit.items])
        return Receipt(len(unit.items), 0, time.perf_counter() - started)

    def _sample(self, item: TextStateItem) -> EncodedSample:
        states, mask = self.encoder.encode([item.text])
        return EncodedSample(item.item_id, item.text, {TEXT_STATES: stored_states(states[0][mask[0] > 0])})


def stored_states(states: Tensor) -> LatentArray:
    """States [n, D] as they are stored: in their own precision, bfloat16 as its bits."""
    states = states.cpu().contiguous()
    if states.dtype == torch.bfloat16:
        return LatentArray(states.view(torch.uint16).numpy(), "BF16", tuple(states.shape))
    return LatentArray(states.float().numpy().astype(np.dtype("<f4")), "F32", tuple(states.shape))
