"""FSDP2: every rank keeps a part of all weights and gathers those of a block while it needs them.

Gradients are summed, not averaged, as without sharding. Tensors of the optimiser and of averages are sharded as their parameters are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.trainer.parallel import Context


def shard_over_ranks(module: nn.Module, network: VelocityNetwork, context: Context) -> None:
    """Shard the blocks of ``network`` one by one, and the rest of ``module`` around them, in place; nothing for a single process."""
    if context.world == 1:
        return
    mesh = init_device_mesh(context.device.type, (context.world,))
    for block in network.repeated_blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered on every rank (all must call this); any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def unshard(module: nn.Module) -> None:
    """Replace all sharded parameters of ``module`` by whole ones, after its last forward pass; all ranks must call this."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                values = whole(parameter.detach())
                part.register_parameter(name, nn.Parameter(values, requires_grad=parameter.requires_grad))


@torch.no_grad()
def copy_whole(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into ``target``, which may be sharded."""
    if isinstance(target, DTensor):
        target.copy_(_part_of(value, target))
    else:
        target.copy_(value)


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor on the device of ``parameter``, sharded as it is; scalars stay whole."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return _part_of(value, parameter)
    return value.to(parameter.device)


def _part_of(value: Tensor, parameter: DTensor) -> DTensor:
    """A whole tensor that every rank has, sharded as ``parameter`` is, without communication."""
    local = value.to(parameter.device)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None)


def norm_value(norm: Tensor) -> Tensor:
    """A norm of gradients as a plain tensor on every rank."""
    return whole(norm)


def gather(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Copies of ``tensors`` on the CPU, gathered one by one; empty where ``keep`` is false. All ranks must call this."""
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor)
        if keep:
            copies[name] = gathered.detach().to("cpu", copy=True).contiguous()
    return copies


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether any of the tensors is sharded."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)
