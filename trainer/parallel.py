"""Which part of the global batch this process works on, and how gradients are added up: the same for every launcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avpref.errors import ConfigError

CPU = torch.device("cpu")
Report = Callable[[int, Mapping[str, float]], None]


def silent(step: int, row: Mapping[str, float]) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Context:
    """One process of a training run: its rank among ``world``, its device, and whom it tells about progress.

    ``report(step, metrics)`` is called by every rank at the same steps. With ``world`` > 1 the default process group of
    torch.distributed must exist. Sums over ranks are explicit, one collective for all gradients, because a step runs two
    forward passes of one module under different adapters, which the hooks of DistributedDataParallel do not expect.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    report: Report = silent

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def add_up(self, values: Tensor) -> Tensor:
        """Sum of ``values`` over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over ranks. Every rank must hold gradients of the same parameters."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Return once all ranks are here."""
        if self.world > 1:
            dist.barrier()


def choose_device(device: str, local_rank: int) -> torch.device:
    """``cpu``, or the process's own CUDA device. Raises ConfigError where there is none."""
    if device == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise ConfigError(f"device {device} on a machine without CUDA", "cpu", "set device: cpu")
    return torch.device("cuda", local_rank)


@contextmanager
def environment_context(device: str, report: Report = silent) -> Iterator[Context]:
    """The context that torchrun's variables describe (RANK, WORLD_SIZE, LOCAL_RANK); one process where they are absent.

    Opens the process group (gloo on CPU, nccl on CUDA) and closes it at the end.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    place = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Context(device=place, report=report)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Context(dist.get_rank(), world, place, report)
    finally:
        dist.destroy_process_group()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` torch threads and restore the number; the number decides how sums are split."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
