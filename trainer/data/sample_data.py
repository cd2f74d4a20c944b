"""Access to training samples, whether they are tensors in memory (:mod:`avpref.trainer.batches`) or in a latent store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from avpref.models.flow import Latents
from avpref.trainer.data.buckets import Buckets, SampleIndex


class TextRows(NamedTuple):
    """Hidden states [n, L, D] float32 and masks [n, L] of texts."""

    states: Tensor
    mask: Tensor


class Samples(Protocol):
    """Methods that clips and pairs have in common. All rows of one call are of one bucket."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples."""
        ...

    def buckets(self) -> Buckets:
        """The bucket of every sample."""
        ...

    def texts(self, rows: Sequence[int]) -> TextRows:
        """The texts of samples, in new memory."""
        ...

    def negative(self) -> TextRows | None:
        """The text of caption dropout, one row; None where the data has none."""
        ...


class ClipRows(Samples, Protocol):
    """Training clips."""

    def clips(self, indices: Sequence[SampleIndex]) -> Latents:
        """Latents [n, ...] float32 of samples; a sampled posterior depends on clip and epoch."""
        ...


class PairRows(Samples, Protocol):
    """Preference pairs."""

    @property
    def num_delays(self) -> int:
        """Versions of each chosen clip with delayed audio."""
        ...

    def sides(self, indices: Sequence[SampleIndex]) -> tuple[Latents, Latents]:
        """Latents [n, ...] float32 of the chosen and of the rejected clips, in new memory."""
        ...

    def delayed(self, index: SampleIndex, version: int) -> Tensor:
        """Audio [C, L, M] of the chosen clip, delayed; ``version`` counts the delays."""
        ...

    def moves(self, rows: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Whether the loss of each pair moves video, and audio: bool [n]; None where every pair moves both."""
        ...

    def pair_weights(self, rows: Sequence[int]) -> Tensor | None:
        """Weights of the pairs' losses, float32 [n]; None where all count alike."""
        ...
