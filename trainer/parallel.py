"""The rank, device and collectives of one training process, the same for every launcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avpref.errors import ConfigError

CPU = torch.device("cpu")
JOIN_TIMEOUT = timedelta(minutes=10)
"""Longest wait of a process for the others, at the start and in every sum."""
ProgressCallback = Callable[[int, Mapping[str, float]], None]
"""Called as callback(step, metrics)."""


def ignore_progress(step: int, row: Mapping[str, float]) -> None:
    """A :data:`ProgressCallback` that does nothing."""


@dataclass(frozen=True)
class Context:
    """One process of a training run: its rank among ``world`` processes, its device and its progress callback.

    ``on_progress(step, metrics)`` is called by every rank at the same steps. With ``world`` > 1 the default process group of
    torch.distributed must exist. Sums over ranks are explicit, one collective for all gradients, because a step runs two
    forward passes of one module under different adapters, which DistributedDataParallel does not support.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    on_progress: ProgressCallback = ignore_progress

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Sum ``values`` over ranks, in place, and return them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over ranks. All ranks must hold gradients of the same parameters."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Block until all ranks have called this."""
        if self.world > 1:
            dist.barrier()


def choose_device(device: str, local_rank: int) -> torch.device:
    """The CPU; CUDA device ``local_rank`` for ``cuda``; the named one for ``cuda:N``. Raises ConfigError if CUDA is not available."""
    if device == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise ConfigError(f"device {device} on a machine without CUDA", "cpu", "set device: cpu")
    named = torch.device(device)
    return torch.device("cuda", local_rank) if named.index is None else named


@contextmanager
def environment_context(device: str, on_progress: ProgressCallback = ignore_progress) -> Iterator[Context]:
    """The context described by torchrun's variables RANK, WORLD_SIZE and LOCAL_RANK; a single process without them.

    Opens the process group (gloo on CPU, nccl on CUDA) and closes it at the end. Raises ConfigError as :func:`choose_device`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    process_device = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Context(device=process_device, on_progress=on_progress)
        return
    dist.init_process_group("nccl" if process_device.type == "cuda" else "gloo")
    try:
        yield Context(dist.get_rank(), world, process_device, on_progress)
    finally:
        dist.destroy_process_group()


def ready_file(rendezvous: Path, rank: int) -> Path:
    """The file that process ``rank`` makes when it is about to meet the others at ``rendezvous``."""
    return rendezvous.with_name(f"{rendezvous.name}-{rank}")


@contextmanager
def joined_context(
    rank: int, world: int, rendezvous: Path, device: str, on_progress: ProgressCallback = ignore_progress
) -> Iterator[Context]:
    """The context of process ``rank`` of ``world`` on one machine; they meet through the file ``rendezvous``, which none may have used.

    Opens the process group and closes it at the end, as :func:`environment_context`. Raises ConfigError as :func:`choose_device`.
    """
    process_device = choose_device(device, rank)
    backend = "nccl" if process_device.type == "cuda" else "gloo"
    method = f"file://{rendezvous.absolute()}"
    dist.init_process_group(backend, init_method=method, rank=rank, world_size=world, timeout=JOIN_TIMEOUT)
    try:
        yield Context(rank, world, process_device, on_progress)
    finally:
        dist.destroy_process_group()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` torch threads, then restore the previous number. It affects the rounding of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
