"""LoRA updates as one differentiable operation, which keeps less for the backward pass than PEFT's modules.

PEFT casts the input of an adapted linear layer to float32 for each adapter, and autograd keeps every cast: of a bfloat16 network that is
the most part of all activations. Here the input is kept in its own dtype, once for all layers that read it, and cast again in the
backward pass. Values and gradients are those of PEFT, up to rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class _AddUpdate(torch.autograd.Function):
    """result + scale · (x Aᵀ) Bᵀ in float32, then the dtype of ``result``: x [..., in], A [r, in], B [out, r], result [..., out]."""

    @staticmethod
    def forward(context: FunctionCtx, result: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        """The sum. Keeps x in its own dtype and x Aᵀ."""
        inner = F.linear(x.to(down.dtype), down)
        context.save_for_backward(x, inner, down, up)
        cast(Any, context).scale = scale
        update = F.linear(inner, up)
        if math.frexp(scale)[0] == 0.5:  # a power of two: multiplying rounds nothing, so that one operation does both
            return torch.add(result, update, alpha=scale).to(result.dtype)
        return torch.add(result, update * scale).to(result.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of result, x, A and B."""
        x, inner, down, up = context.saved_tensors
        outer = gradient.to(up.dtype).flatten(0, -2)
        through = (outer @ up).mul_(context.scale)
        of_x = (through @ down).view(x.shape).to(x.dtype) if context.needs_input_grad[1] else None
        of_down = (x.to(down.dtype).flatten(0, -2).t() @ through).t() if context.needs_input_grad[2] else None
        of_up = (inner.flatten(0, -2).t() @ outer).mul_(context.scale).t() if context.needs_input_grad[3] else None
        return gradient, of_x, of_down, of_up, None


class _Fused:
    """Mixed into PEFT's linear layers: one active plain adapter in eager mode takes the operation above, all else PEFT's path."""

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """x [..., in] -> [..., out]."""
        layer = cast(LoraLinear, self)
        is_plain = not (arguments or keywords or layer.disable_adapters or layer.merged)
        if not is_plain or len(layer.active_adapters) != 1 or torch.compiler.is_compiling():
            output: Tensor = super().forward(x, *arguments, **keywords)  # type: ignore[misc]
            return output
        (name,) = layer.active_adapters
        down, up = (cast(nn.Linear, side[name]).weight for side in (layer.lora_A, layer.lora_B))
        return cast(Tensor, _AddUpdate.apply(layer.base_layer(x), x, down, up, layer.scaling[name]))  # type: ignore[no-untyped-call]


@lru_cache
def _fused_class(kind: type[LoraLayer]) -> type[LoraLayer]:
    return type(f"Fused{kind.__name__}", (_Fused, kind), {})


def fuse_updates(model: nn.Module) -> None:
    """Let all adapted linear layers of ``model`` compute their updates by the fused operation, in place; names do not change.

    Layers of other kinds keep PEFT's path.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear) and type(module).forward is LoraLinear.forward and not module.lora_variant:
            module.__class__ = _fused_class(type(module))
