"""The dtype of the frozen network under an adapter: float32, bfloat16, or weights of the blocks' linear layers in 8 bits."""

from __future__ import annotations

from typing import Literal, TypeGuard

import torch
from torch import nn

from avpref.errors import ConfigError
from avpref.models.bases.velocity_network import VelocityNetwork

BaseDtype = Literal["float32", "bfloat16", "int8", "float8"]
QUANTISED = frozenset({"int8", "float8"})


def with_base_dtype(network: VelocityNetwork, dtype: BaseDtype | torch.dtype) -> VelocityNetwork:
    """``network`` in ``dtype``, in place. ``int8`` and ``float8`` keep weights of the blocks' linear layers in 8 bits, with a scale per
    output channel, and everything else in bfloat16; products are computed in bfloat16.

    Raises ConfigError for 8 bits where torchao is not installed.
    """
    if isinstance(dtype, torch.dtype):
        return network.to(dtype)
    if dtype not in QUANTISED:
        return network.to({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ConfigError(
            f"dpo.base_dtype {dtype}, and torchao cannot be imported",
            "the extra low-memory",
            "pip install 'avpref[low-memory]', or --set dpo.base_dtype=bfloat16",
        ) from error
    network.to(torch.bfloat16)
    config = Int8WeightOnlyConfig() if dtype == "int8" else Float8WeightOnlyConfig()
    for block in network.repeated_blocks():
        quantize_(block, config, filter_fn=_is_linear)
    return network


def linear_layers(network: VelocityNetwork) -> list[nn.Linear]:
    """The layers of ``network`` that 8-bit dtypes change."""
    return [layer for block in network.repeated_blocks() for layer in block.modules() if _is_linear(layer)]


def _is_linear(module: nn.Module, name: str = "") -> TypeGuard[nn.Linear]:
    return isinstance(module, nn.Linear)
