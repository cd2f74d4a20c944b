"""Moments of AdamW as plain tensors, for checkpoints: 8-bit moments of torchao consist of codes, scales and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor

from avpref.errors import ConfigError


def pieces_of(moment: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors of a moment: itself under an empty name, or its parts as ``:PART``."""
    if isinstance(moment, DTensor) or not hasattr(moment, "__tensor_flatten__"):
        yield "", moment
        return
    names, _ = moment.__tensor_flatten__()
    yield from ((f":{name}", getattr(moment, name)) for name in names)


def joined_moment(parts: Mapping[str, Tensor], parameter: Tensor, *, is_signed: bool) -> Tensor:
    """The 8-bit moment of ``parameter`` with these parts. Raises ConfigError where torchao is not installed."""
    try:
        from torchao.optim.subclass_8bit import OptimState8bit
    except ImportError as error:
        raise ConfigError(
            "a checkpoint with 8-bit moments, and torchao cannot be imported",
            "the extra low-memory",
            "pip install 'avpref[low-memory]'",
        ) from error
    moment: Tensor = OptimState8bit(parts["codes"], parts["scale"], parts["qmap"], is_signed)
    return moment
