"""Buckets: samples of one shape, the order in which they are used, and forward passes under a budget of tokens.

A step takes a fixed number of samples. Its forward passes hold samples of one shape and at most ``max_tokens`` tokens; their gradients
are summed before the optimiser moves. Order and passes depend on seed, step and shapes alone: several processes divide the samples of
a step, never the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch

from avpref.errors import ConfigError
from avpref.identity import derive_seed
from avpref.models.flow import LatentShapes
from avpref.storage.latents.latent_reader import ClipSize

TokenCount = Callable[[LatentShapes], int]
"""Tokens of one row of latents."""


class SampleIndex(NamedTuple):
    """One sample of a batch: its row in the data file, and its epoch (how often the sample was used before)."""

    row: int
    epoch: int


@dataclass(frozen=True)
class Bucket:
    """Samples of one shape. ``size`` is that of their clips in frames and pixels; None where the data does not say."""

    shapes: LatentShapes
    size: ClipSize | None = None

    @property
    def name(self) -> str:
        """The shape for people: frames x height x width of the clips, or of the latents."""
        if self.size is not None:
            return f"{self.size.num_frames}x{self.size.height_px}x{self.size.width_px}"
        latents = self.shapes.video or self.shapes.audio or ()
        return "latents " + "x".join(map(str, latents))


@dataclass(frozen=True)
class Buckets:
    """The bucket of each of N samples.

    Attributes:
        of_row: index in ``kinds`` of each sample.
        kinds: the buckets.
        rows_per_sample: rows of the network's batch that a sample needs: 2 for a pair, 1 for a clip.
    """

    of_row: tuple[int, ...]
    kinds: tuple[Bucket, ...]
    rows_per_sample: int

    def tokens(self, tokens_of: TokenCount) -> tuple[int, ...]:
        """Tokens of one sample of each bucket, all rows together."""
        return tuple(self.rows_per_sample * tokens_of(bucket.shapes) for bucket in self.kinds)


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_samples: int) -> tuple[int, ...]:
    """The order of the samples in an epoch: a permutation of 0..num_samples-1 that depends only on seed and epoch."""
    generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
    return tuple(torch.randperm(num_samples, generator=generator).tolist())


class Schedule:
    """The samples of every step and their division into forward passes.

    ``capacity`` has the most samples of each bucket in one pass; None: no limit. Raises ConfigError for a bucket whose single sample
    exceeds ``max_tokens``.
    """

    def __init__(self, buckets: Buckets, tokens_of: TokenCount | None = None, max_tokens: int | None = None) -> None:
        self.buckets, self.num_samples = buckets, len(buckets.of_row)
        self.capacity: tuple[int, ...] | None = None
        if max_tokens is not None:
            assert tokens_of is not None, "a budget of tokens needs the network's tokens"
            self.capacity = _capacity(buckets, tokens_of, max_tokens)
        self._orders: dict[tuple[int, int], tuple[int, ...]] = {}

    def order(self, seed: int, epoch: int) -> tuple[int, ...]:
        """The order of the samples in an epoch: blocks of one bucket that fill a pass, at the places of their first samples.

        Invariants: a permutation; with one bucket or without a budget that of :func:`epoch_order`.
        """
        plain = epoch_order(seed, epoch, self.num_samples)
        if self.capacity is None or len(self.buckets.kinds) == 1:
            return plain
        key = (seed, epoch)
        if key not in self._orders:
            self._orders = {**dict(list(self._orders.items())[-1:]), key: self._in_blocks(plain)}
        return self._orders[key]

    def samples(self, seed: int, step: int, batch_size: int) -> list[SampleIndex]:
        """Samples of the global batch of ``step`` (0-based): the epochs' orders, concatenated and cut into batches."""
        count = self.num_samples
        positions = range(step * batch_size, (step + 1) * batch_size)
        return [SampleIndex(self.order(seed, p // count)[p % count], p // count) for p in positions]

    def passes(self, indices: Sequence[SampleIndex]) -> list[list[SampleIndex]]:
        """``indices`` in forward passes of one bucket each: buckets in order of appearance, cut to the budget."""
        groups: dict[int, list[SampleIndex]] = {}
        for index in indices:
            groups.setdefault(self.buckets.of_row[index.row], []).append(index)
        passes = []
        for bucket, members in groups.items():
            size = len(members) if self.capacity is None else self.capacity[bucket]
            passes += [members[start : start + size] for start in range(0, len(members), size)]
        return passes

    def _in_blocks(self, order: Sequence[int]) -> tuple[int, ...]:
        assert self.capacity is not None
        place = {row: position for position, row in enumerate(order)}
        by_bucket = sorted(order, key=lambda row: (self.buckets.of_row[row], place[row]))
        blocks: list[list[int]] = []
        for bucket, members in groupby(by_bucket, lambda row: self.buckets.of_row[row]):
            rows, size = list(members), self.capacity[bucket]
            blocks += [rows[start : start + size] for start in range(0, len(rows), size)]
        return tuple(row for block in sorted(blocks, key=lambda block: place[block[0]]) for row in block)


def _capacity(buckets: Buckets, tokens_of: TokenCount, max_tokens: int) -> tuple[int, ...]:
    capacity = []
    for bucket, tokens in zip(buckets.kinds, buckets.tokens(tokens_of), strict=True):
        if tokens > max_tokens:
            noun = "pair" if buckets.rows_per_sample == 2 else "clip"
            found = f"one {noun} of bucket {bucket.name} has {tokens} tokens, loop.max_tokens is {max_tokens}"
            raise ConfigError(found, "room for one sample of every bucket", f"--set dpo.loop.max_tokens={tokens}")
        capacity.append(max_tokens // tokens)
    return tuple(capacity)


def one_bucket(count: int, shapes: LatentShapes, rows_per_sample: int) -> Buckets:
    """Buckets of ``count`` samples of equal shape."""
    return Buckets((0,) * count, (Bucket(shapes),), rows_per_sample)
