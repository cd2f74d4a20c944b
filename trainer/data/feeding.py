"""Batches of coming steps, assembled in a thread while the network computes.

Batches are a function of their indices, so that the thread changes no value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, Self, TypeVar

import torch

from avpref.models.flow import Latents
from avpref.trainer.data.buckets import SampleIndex, Schedule
from avpref.trainer.noise import shard_for_rank
from avpref.trainer.parallel import Context

STEPS_AHEAD = 2
"""Steps whose batches are ready or in work while a step runs."""


class Batch(Protocol):
    """The rows of a forward pass."""

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        ...

    @property
    def latents(self) -> Latents:
        """Latents of the rows, whose shapes the work of a row depends on."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same batch on ``device``."""
        ...

    def pinned(self) -> Self:
        """The same batch in pinned memory."""
        ...


BatchT = TypeVar("BatchT", bound=Batch)
BatchOut = TypeVar("BatchOut", bound=Batch, covariant=True)


class BatchSource(Protocol[BatchOut]):
    """Source of training batches. A batch depends only on its indices, which are of one bucket."""

    ids: tuple[str, ...]
    schedule: Schedule

    def batch(self, indices: Sequence[SampleIndex]) -> BatchOut:
        """The batch of the samples ``indices``, on the CPU."""
        ...


def step_batches(
    source: BatchSource[BatchT], seed: int, batch_size: int, steps: range, context: Context
) -> Iterator[tuple[BatchT, ...]]:
    """The batches of each of ``steps`` for the rank of ``context``, one per forward pass, on the CPU.

    Raises what the source raises, at the step that needs the batch.
    Batches for a CUDA device are in pinned memory.
    """

    def assemble(step: int) -> tuple[BatchT, ...]:
        indices = shard_for_rank(source.schedule.samples(seed, step, batch_size), context.rank, context.world)
        batches = (source.batch(indices_of_pass) for indices_of_pass in source.schedule.passes(indices))
        return tuple(batch.pinned() if context.device.type == "cuda" else batch for batch in batches)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming: deque[Future[tuple[BatchT, ...]]] = deque()
        for step in steps:
            last = min(step + STEPS_AHEAD, steps.stop - 1)
            coming.extend(thread.submit(assemble, later) for later in range(step + len(coming), last + 1))
            yield coming.popleft().result()
