"""Conditions of a clip that SFT draws anew in every step: known latents, dropped texts, and states of texts that are random.

All draws depend on (seed, sample, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from avpref.identity import derive_seed
from avpref.models.dual_stream.temporal_masks import draw_masks
from avpref.models.flow import Latents
from avpref.trainer.data.buckets import SampleIndex

RedrawTexts = Callable[[Tensor, Sequence[int]], Tensor]
"""States of texts [n, L, D] drawn again with one seed for each; see :meth:`avpref.models.bases.base_model.Base.redrawn_texts`."""


class LatentMasks(NamedTuple):
    """True where latents are to be generated, False where they are known: video [B, T] and audio [B, L]."""

    video: Tensor
    audio: Tensor

    def to(self, device: torch.device) -> LatentMasks:
        """The same masks on ``device``."""
        return LatentMasks(self.video.to(device), self.audio.to(device))


@dataclass(frozen=True)
class ConditionDraws:
    """The draws: masks from the released mixture, ``num_dropped`` conditions that are each dropped with probability
    ``dropped_share``, and states of texts that ``redraw`` draws again; None and 0: nothing.
    """

    seed: int = 0
    has_masks: bool = False
    num_dropped: int = 0
    dropped_share: float = 0.0
    redraw: RedrawTexts | None = None

    def masks(self, ids: Sequence[str], indices: Sequence[SampleIndex], latents: Latents) -> LatentMasks | None:
        """Masks of clips; None without masks, and where a track is absent."""
        if not self.has_masks or latents.video is None or latents.audio is None:
            return None
        sizes = latents.video.shape[2], latents.audio.shape[2]
        drawn = [draw_masks(*sizes, self._generator("masks", ids[index.row], index.epoch)) for index in indices]
        return LatentMasks(torch.stack([mask.video for mask in drawn]), torch.stack([mask.audio for mask in drawn]))

    def dropped(self, ids: Sequence[str], indices: Sequence[SampleIndex]) -> Tensor | None:
        """Which conditions of each clip are dropped, bool [n, num_dropped]; None without any."""
        if not self.num_dropped:
            return None
        generators = [self._generator("dropped", ids[index.row], index.epoch) for index in indices]
        return torch.stack([torch.rand(self.num_dropped, generator=g) for g in generators]) < self.dropped_share

    def texts(self, ids: Sequence[str], indices: Sequence[SampleIndex], states: Tensor) -> Tensor:
        """The states [n, L, D] of the clips' texts in this epoch."""
        if self.redraw is None:
            return states
        return self.redraw(states, [derive_seed("text", self.seed, ids[index.row], index.epoch) for index in indices])

    def _generator(self, what: str, sample_id: str, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(what, self.seed, sample_id, epoch))


NO_DRAWS = ConditionDraws()


def with_known(noisy: Latents, data: Latents, masks: LatentMasks) -> Latents:
    """``noisy`` [B, C, F, ...] with the latents of ``data`` where ``masks`` say that they are known."""
    tracks = []
    for x_t, x0, mask in zip(noisy, data, masks, strict=True):
        assert x_t is not None and x0 is not None
        tracks.append(torch.where(mask.reshape(len(mask), 1, -1, *[1] * (x_t.ndim - 3)), x_t, x0))
    return Latents(*tracks)
