"""Linear layers fused with the operation after them, and their variant with packed weights for CPUs.

A plain linear layer rearranges its weights for the processor's caches at every call. A tower that scores many clips packs them
once, after loading, and the packed layer applies the next operation (the activation, or the sum with the residual stream) while
the numbers are still in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FusedLinear(nn.Linear):
    """A linear layer, alone or fused with the operation that follows it in a transformer layer."""

    def gelu(self, inputs: Tensor) -> Tensor:
        """The exact GELU of the layer's output: [..., in] to [..., out]."""
        return functional.gelu(self(inputs))

    def add_to(self, inputs: Tensor, stream: Tensor) -> Tensor:
        """The layer's output for ``inputs`` [..., in] added to ``stream`` [..., out]."""
        return stream + self(inputs)


class PackedLinear(nn.Module):
    """A :class:`FusedLinear` with packed weights (oneDNN), for float32 on a CPU without gradients; it differs in rounding only."""

    def __init__(self, plain: FusedLinear, rows: int) -> None:
        super().__init__()
        self.bias = plain.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), rows)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "none", [], "")

    def gelu(self, inputs: Tensor) -> Tensor:
        """See :class:`FusedLinear`."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "gelu", [], "none")

    def add_to(self, inputs: Tensor, stream: Tensor) -> Tensor:
        """See :class:`FusedLinear`."""
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, stream, self._weight, self.bias, "add")


def can_pack(weight: Tensor) -> bool:
    """Whether this build of torch can pack ``weight``: it must be float32 on a CPU."""
    has_operators = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return has_operators and torch.backends.mkldnn.is_available() and is_plain


def pack(network: nn.Module, rows: int) -> None:
    """Replace every :class:`FusedLinear` in ``network`` that can be packed by a packed one, for inputs of about ``rows`` rows.

    The plain weights are freed: afterwards the network can only be run, not saved, moved or trained.
    """
    for name, child in list(network.named_children()):
        if not isinstance(child, FusedLinear):
            pack(child, rows)
        elif can_pack(child.weight):
            setattr(network, name, PackedLinear(child, rows))
