"""Initial values of added synchronisers, and networks that get one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from avpref.models.blocks import RMSNorm
from avpref.models.synchronisers.synchroniser import is_added

OUTPUT = ".o"
"""Ending of the name of an output projection."""


def added_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of added synchronisers by name, in the order of the network."""
    return ((name, module) for name, module in network.named_modules() if is_added(name))


@torch.no_grad()
def initialise_added(network: nn.Module, generator: torch.Generator) -> None:
    """Overwrite every parameter of the added layers of ``network``: Xavier-uniform maps, zero biases, zero output projections.

    Invariant: the network computes the same function as without the layers, up to the sign of zeros.
    """
    for name, module in added_modules(network):
        match module:
            case nn.Linear():
                if name.endswith(OUTPUT):
                    module.weight.zero_()
                else:
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                module.bias.zero_()
            case RMSNorm():
                module.weight.fill_(1)
            case nn.LayerNorm():
                module.weight.fill_(1)
                module.bias.zero_()
