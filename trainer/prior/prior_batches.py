"""Batches for the synchrony prior: clips with their negatives, text states, and the noise that priors are drawn with.

As in all trainings here, every value of a row depends on (run seed, sample, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from avpref.identity import derive_seed
from avpref.models.dual_stream.prior_losses import KINDS, ClipBatch
from avpref.models.flow import Latents
from avpref.trainer.data.buckets import SampleIndex, Schedule
from avpref.trainer.data.sample_data import ClipRows


class PriorRows(ClipRows, Protocol):
    """Training clips with negatives."""

    def negatives(self, indices: Sequence[SampleIndex], kind: str) -> Latents:
        """Video and audio [n, ...] float32 of the clips' negatives of ``kind``; which of several depends on the epoch."""
        ...


class PriorBatch(NamedTuple):
    """Rows of a step: ``clips`` with one negative of each kind and track, ``text`` [B, L, D], ``noise`` N(0, 1) [B, K, c] or None."""

    clips: ClipBatch
    text: Tensor
    noise: Tensor | None
    indices: tuple[SampleIndex, ...]

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return len(self.text)

    @property
    def latents(self) -> Latents:
        """The clips themselves."""
        return Latents(self.clips.video, self.clips.audio)

    def to(self, device: torch.device) -> PriorBatch:
        """The same batch on ``device``."""
        noise = None if self.noise is None else self.noise.to(device)
        return self._replace(clips=self.clips.to(device), text=self.text.to(device), noise=noise)

    def pinned(self) -> PriorBatch:
        """The same batch in pinned memory."""
        noise = None if self.noise is None else self.noise.pin_memory()
        return self._replace(clips=self.clips.pinned(), text=self.text.pin_memory(), noise=noise)


class PriorSource:
    """Batches of clips with negatives; ``prior_shape`` (K of both kinds, c) is that of a text's prior, None without sampling."""

    def __init__(
        self, rows: PriorRows, seed: int, prior_shape: tuple[int, int] | None, schedule: Schedule | None = None
    ) -> None:
        self.rows, self._seed, self._prior_shape = rows, seed, prior_shape
        self.ids, self.schedule = rows.ids, schedule or Schedule(rows.buckets())

    def batch(self, indices: Sequence[SampleIndex]) -> PriorBatch:
        """The rows ``indices``, of one bucket; row i depends on indices[i] alone."""
        buckets = self.schedule.buckets
        size = buckets.kinds[buckets.of_row[indices[0].row]].size
        assert size is not None, "clips of a latent store have a size"
        video, audio = self.rows.clips(indices)
        assert video is not None and audio is not None
        negatives = {kind: self.rows.negatives(indices, kind) for kind in KINDS}
        clips = ClipBatch(
            video,
            audio,
            (float(size.height_px), float(size.width_px)),
            {kind: _column(latents.video) for kind, latents in negatives.items()},
            {kind: _column(latents.audio) for kind, latents in negatives.items()},
        )
        text = self.rows.texts([index.row for index in indices]).states
        noise = None if self._prior_shape is None else torch.stack([self._noise(index) for index in indices])
        return PriorBatch(clips, text, noise, tuple(indices))

    def _noise(self, index: SampleIndex) -> Tensor:
        assert self._prior_shape is not None
        seed = derive_seed("prior noise", self._seed, self.ids[index.row], index.epoch)
        return torch.randn(self._prior_shape, generator=torch.Generator().manual_seed(seed))


def _column(latents: Tensor | None) -> Tensor:
    """Negatives [n, ...] as the losses take them, one of each clip: [n, 1, ...]."""
    assert latents is not None
    return latents[:, None]
