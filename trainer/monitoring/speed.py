"""Speed of a training: tokens per second, share of time that waits for data, model FLOP utilisation, and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from avpref.models.bases.base_model import Work
from avpref.models.flow import LatentShapes
from avpref.trainer.data.feeding import Batch
from avpref.trainer.parallel import Context

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 peaks of the vendors' data sheets (Tensor Cores, no sparsity), by a part of the device's name."""
TERA = 1e12
GIB = 2.0**30


@dataclass(frozen=True)
class PassCost:
    """Forward passes that one row of a step costs: ``policy`` with the backward pass, ``reference`` without.

    The backward pass of an adapter needs the gradients of activations, as much work as the forward pass in linear layers; that of a
    trained network needs the gradients of weights too. Recomputed activations are not counted (model FLOP, not hardware FLOP).
    """

    policy: float
    reference: float

    @property
    def total(self) -> float:
        """Forward passes in all."""
        return self.policy + self.reference


ADAPTER_ALONE, ADAPTER_AND_REFERENCE, ALL_WEIGHTS = PassCost(2.0, 0.0), PassCost(2.0, 1.0), PassCost(3.0, 0.0)


def peak_tflops(device: torch.device) -> float | None:
    """The device's peak in TFLOP/s; None for a CPU or a GPU that :data:`PEAK_TFLOPS` lacks."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


class SpeedMeter:
    """Counts tokens, operations and waiting of this rank between two calls of :meth:`values`.

    ``work_of`` is the work of one row of latents of some shapes; None for a meter that measures nothing.
    """

    def __init__(self, work_of: Callable[[LatentShapes], Work] | None, cost: PassCost = ADAPTER_AND_REFERENCE) -> None:
        self._work_of, self._cost = work_of, cost
        self._tokens, self._flop, self._waited_s = 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        started = time.monotonic()
        yield
        self._waited_s += time.monotonic() - started

    def add(self, batch: Batch) -> None:
        """Count the rows of a batch."""
        if self._work_of is None:
            return
        work = self._work_of(shapes_of_row(batch))
        self._tokens += work.num_tokens * batch.num_rows
        self._flop += batch.num_rows * self._cost.total * work.forward_flop

    def values(self, seconds: float, context: Context) -> dict[str, float]:
        """tokens_per_s (of all ranks), data_wait_share, tflops (per rank), mfu and memory_gib (peak of a GPU), where known.

        Every rank must call this: tokens are summed over ranks.
        """
        if self._work_of is None:
            return {}
        tokens = float(context.all_reduce_sum(torch.tensor(float(self._tokens), device=context.device)))
        seconds = max(seconds, 1e-9)
        tflops = self._flop / seconds / TERA
        measured = {
            "tokens_per_s": tokens / seconds,
            "data_wait_share": self._waited_s / seconds,
            "tflops": tflops,
        }
        peak = peak_tflops(context.device)
        if peak is not None:
            measured["mfu"] = tflops / peak
        if context.device.type == "cuda":
            measured["memory_gib"] = torch.cuda.max_memory_allocated(context.device) / GIB
        self._tokens, self._flop, self._waited_s = 0, 0.0, 0.0
        return measured


NO_SPEED = SpeedMeter(None)


def shapes_of_row(batch: Batch) -> LatentShapes:
    """Shapes of the latents of one row of ``batch``."""
    video, audio = batch.latents
    return LatentShapes(
        None if video is None else (video.shape[1], video.shape[2], video.shape[3], video.shape[4]),
        None if audio is None else (audio.shape[1], audio.shape[2], audio.shape[3]),
    )
