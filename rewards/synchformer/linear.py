"""Matrix products of towers: plain ones, and ones whose weights lie ready for the processor's caches.

A plain product lays its weights out anew at every call. Towers that judge clip after clip do it once, after loading, and let the
product apply what follows it (the activation, or the sum with the stream) while the numbers are still in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FusedLinear(nn.Linear):
    """A linear layer, alone or with what follows it in a transformer's layer."""

    def gelu(self, inputs: Tensor) -> Tensor:
        """The exact GELU of the product: [..., in] to [..., out]."""
        return functional.gelu(self(inputs))

    def add_to(self, inputs: Tensor, stream: Tensor) -> Tensor:
        """The product added to ``stream`` [..., out]."""
        return stream + self(inputs)


class PackedLinear(nn.Module):
    """A :class:`FusedLinear` with packed weights (oneDNN), for float32 on a CPU without gradients; differs from it in rounding alone."""

    def __init__(self, plain: FusedLinear, rows: int) -> None:
        super().__init__()
        self.bias = plain.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), rows)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] to [..., out]"""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "none", [], "")

    def gelu(self, inputs: Tensor) -> Tensor:
        """See :class:`FusedLinear`."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "gelu", [], "none")

    def add_to(self, inputs: Tensor, stream: Tensor) -> Tensor:
        """See :class:`FusedLinear`."""
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, stream, self._weight, self.bias, "add")


def can_pack(weight: Tensor) -> bool:
    """Whether products with such weights can be packed by this build of torch, on this device, in this type."""
    has_operators = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return has_operators and torch.backends.mkldnn.is_available() and is_plain


def pack(network: nn.Module, rows: int) -> None:
    """Replace every product in ``network`` by a packed one for inputs of about ``rows`` rows, where that is possible.

    The plain weights are let go: the network can then only be run, neither saved, moved nor trained.
    """
    for name, child in list(network.named_children()):
        if not isinstance(child, FusedLinear):
            pack(child, rows)
        elif can_pack(child.weight):
            setattr(network, name, PackedLinear(child, rows))
