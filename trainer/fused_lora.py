"""LoRA layers as one differentiable operation, which keeps less for the backward pass than PEFT's modules and writes less memory.

PEFT casts the input of an adapted linear layer to float32, and autograd keeps a cast for every layer. Here the input is kept in its own
dtype, once for all layers that read it, and cast again in the backward pass. After a GELU, the input of the GELU is kept anyway, and
its output is computed again. Values and gradients are those of PEFT, up to rounding.
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

GELU = "tanh"
"""The form of GELU in the networks' feed-forward layers."""


class _AddUpdate(torch.autograd.Function):
    """result + scale · (x Aᵀ) Bᵀ in float32, then the dtype of ``result``: x [..., in], A [r, in], B [out, r], result [..., out].

    ``source`` [..., in], where it is given, is what x is the GELU of.
    """

    @staticmethod
    def forward(
        context: FunctionCtx, result: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float, source: Tensor | None
    ) -> Tensor:
        """The sum. Keeps x (or its source) in its own dtype, and x Aᵀ."""
        inner = F.linear(x.to(down.dtype), down)
        context.save_for_backward(x if source is None else source, inner, down, up)
        cast(Any, context).scale, cast(Any, context).is_source = scale, source is not None
        update = F.linear(inner, up)
        if _is_exact(scale):
            return torch.add(result, update, alpha=scale).to(result.dtype)
        return (result + update * scale).to(result.dtype)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of result, x, A and B."""
        x, inner, down, up = context.saved_tensors
        outer, scale = gradient.to(up.dtype).flatten(0, -2), context.scale
        if not _is_exact(scale):
            outer, scale = outer * scale, 1.0
        through = (outer @ up).mul_(scale)
        of_x = (through @ down).view(x.shape).to(x.dtype) if context.needs_input_grad[1] else None
        return gradient, of_x, *_of_factors(context, x, inner, outer, through, scale), None, None


class _AdaptedLinear(torch.autograd.Function):
    """x Wᵀ + b + scale · (x Aᵀ) Bᵀ with frozen W [out, in] and b, all of one dtype: x [..., in] -> [..., out].

    The products of the update are added by the product itself, so that nothing as large as a wide result is written twice. ``source`` as
    for :class:`_AddUpdate`. With B = 0 the result has the bits of the layer without adapter.
    """

    @staticmethod
    def forward(
        context: FunctionCtx,
        x: Tensor,
        base: tuple[Tensor, Tensor | None],
        down: Tensor,
        up: Tensor,
        scale: float,
        source: Tensor | None,
    ) -> Tensor:
        """The sum. Keeps x (or its source) and x Aᵀ."""
        inner = F.linear(x, down)
        context.save_for_backward(x if source is None else source, inner, base[0], down, up)
        cast(Any, context).scale, cast(Any, context).is_source = scale, source is not None
        result = F.linear(x, *base)
        sums = torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=scale)
        return sums.view(result.shape)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B."""
        x, inner, weight, down, up = context.saved_tensors
        outer, scale = gradient.flatten(0, -2), context.scale
        through = (outer @ up).mul_(scale)
        of_x = (outer @ weight).addmm_(through, down).view(x.shape) if context.needs_input_grad[0] else None
        return of_x, None, *_of_factors(context, x, inner, outer, through, scale), None, None


def _of_factors(
    context: Any, x: Tensor, inner: Tensor, outer: Tensor, through: Tensor, scale: float
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of A and B, the third and fourth inputs of both operations. ``x`` is their input, or what that is the GELU of.

    ``inner`` [..., r] is x Aᵀ, ``outer`` [n, out] the gradient of the result, ``through`` [n, r] scale · outer B.
    """
    of_down = of_up = None
    if context.needs_input_grad[2]:
        x = F.gelu(x, approximate=GELU) if context.is_source else x
        of_down = (x.to(through.dtype).flatten(0, -2).t() @ through).t()
    if context.needs_input_grad[3]:
        of_up = (inner.flatten(0, -2).t() @ outer).mul_(scale).t()
    return of_down, of_up


def _is_exact(scale: float) -> bool:
    """Whether ``scale`` is a power of two, so that multiplying rounds nothing and may be done early or late."""
    return math.frexp(scale)[0] == 0.5


class _Fused:
    """Mixed into PEFT's linear layers: one active plain adapter in eager mode takes the operation above, all else PEFT's path."""

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """x [..., in] -> [..., out]."""
        layer = cast(LoraLinear, self)
        if arguments or keywords or not _is_plain(layer):
            output: Tensor = super().forward(x, *arguments, **keywords)  # type: ignore[misc]
            return output
        return _updated(layer, x, None)

    def after_gelu(self, hidden: Tensor) -> Tensor:
        """The layer on the GELU of ``hidden`` [..., in], which is computed again in the backward pass instead of kept."""
        layer, x = cast(LoraLinear, self), F.gelu(hidden, approximate=GELU)
        return _updated(layer, x, hidden.detach()) if _is_plain(layer) else cast(Tensor, layer(x))


def _is_plain(layer: LoraLinear) -> bool:
    is_off = layer.disable_adapters or layer.merged
    return not is_off and len(layer.active_adapters) == 1 and not torch.compiler.is_compiling()


def _updated(layer: LoraLinear, x: Tensor, source: Tensor | None) -> Tensor:
    (name,) = layer.active_adapters
    down, up = (cast(nn.Linear, side[name]).weight for side in (layer.lora_A, layer.lora_B))
    scale, base = layer.scaling[name], cast(nn.Module, layer.base_layer)
    if _is_frozen_alike(base, x, down):
        return cast(Tensor, _AdaptedLinear.apply(x, (base.weight, base.bias), down, up, scale, source))
    return cast(Tensor, _AddUpdate.apply(base(x), x, down, up, scale, source))


def _is_frozen_alike(base: nn.Module, x: Tensor, down: Tensor) -> bool:
    """Whether the base layer is an ordinary linear layer without gradients whose values have the dtype of x and of the adapter."""
    kind = x.device.type
    if type(base) is not nn.Linear or (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return False
    parameters = (base.weight,) if base.bias is None else (base.weight, base.bias)
    return x.dtype == down.dtype and all(p.dtype == x.dtype and not p.requires_grad for p in parameters)


@lru_cache
def _fused_class(kind: type[LoraLayer]) -> type[LoraLayer]:
    return type(f"Fused{kind.__name__}", (_Fused, kind), {})


def fuse_updates(model: nn.Module) -> None:
    """Let all adapted linear layers of ``model`` compute their updates by the fused operation, in place; names do not change.

    Layers of other kinds keep PEFT's path.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear) and type(module).forward is LoraLinear.forward and not module.lora_variant:
            object.__setattr__(module, "__class__", _fused_class(type(module)))
