"""Random weights derived from parameter names, for tests and dry runs: scores computed with them are meaningless."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from avpref.domain import Terms
from avpref.identity import derive_seed

MEANINGLESS = Terms("random weights", commercial_use=True, is_meaningful=False)
SMALL = 0.02


def fill(network: nn.Module, seed: int = 0, device: torch.device | str = "cpu") -> None:
    """Give every parameter of ``network`` (on the meta device or not) normal values that depend on its name and ``seed`` alone.

    Mean and standard deviation: 0 and 1/√fan-in for matrices, 1 and 0.02 for vectors named ``weight``, 0 and 0.02 for all
    other parameters. Buffers are not changed.
    """
    state = {name: _values(name, tuple(tensor.shape), seed) for name, tensor in network.named_parameters()}
    network.load_state_dict({name: tensor.to(device) for name, tensor in state.items()}, strict=False, assign=True)


def _values(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    draws = np.random.Generator(np.random.Philox(derive_seed("random weights", seed, name)))
    values = torch.from_numpy(draws.standard_normal(shape, np.float32))
    if len(shape) >= 2 and not name.endswith("bias"):
        return values / math.sqrt(math.prod(shape[1:]))
    return values * SMALL + (1.0 if name.endswith("weight") else 0.0)
