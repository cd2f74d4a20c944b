"""Batches of coming steps, assembled in a thread while the network computes.

Batches are a function of their indices, so that the thread changes no value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from avpref.models.flow import Latents
from avpref.trainer.data.buckets import SampleIndex, Schedule
from avpref.trainer.noise import FlowBatch, shard_for_rank
from avpref.trainer.parallel import Context

STEPS_AHEAD = 2
"""Steps whose batches are ready or in work while a step runs."""


class BatchSource(Protocol):
    """Source of training batches. A batch depends only on its indices, which are of one bucket."""

    ids: tuple[str, ...]
    schedule: Schedule

    def batch(self, indices: Sequence[SampleIndex]) -> FlowBatch:
        """The batch of the samples ``indices``, on the CPU."""


def step_batches(
    source: BatchSource, seed: int, batch_size: int, steps: range, context: Context
) -> Iterator[tuple[FlowBatch, ...]]:
    """The batches of each of ``steps`` for the rank of ``context``, one per forward pass, on the CPU.

    Raises what the source raises, at the step that needs the batch.
    Batches for a CUDA device are in pinned memory.
    """

    def assemble(step: int) -> tuple[FlowBatch, ...]:
        indices = shard_for_rank(source.schedule.samples(seed, step, batch_size), context.rank, context.world)
        batches = (source.batch(indices_of_pass) for indices_of_pass in source.schedule.passes(indices))
        return tuple(_pinned(batch) if context.device.type == "cuda" else batch for batch in batches)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming: deque[Future[tuple[FlowBatch, ...]]] = deque()
        for step in steps:
            last = min(step + STEPS_AHEAD, steps.stop - 1)
            coming.extend(thread.submit(assemble, later) for later in range(step + len(coming), last + 1))
            yield coming.popleft().result()


def _pinned(batch: FlowBatch) -> FlowBatch:
    def pin(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.pin_memory()

    noisy, target = (Latents(*(pin(tensor) for tensor in latents)) for latents in (batch.noisy, batch.target))
    return batch._replace(noisy=noisy, target=target, text=batch.text.pin_memory())
