"""Activation checkpointing of a block: keep all activations, none, or those that are slow to compute again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from avpref.config.training_settings import CheckpointingMode

Output = TypeVar("Output")
_ATEN = torch.ops.aten
ATTENTION = frozenset(
    {
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
        _ATEN._scaled_dot_product_attention_math.default,
    }
)
PRODUCTS = frozenset({_ATEN.mm.default, _ATEN.addmm.default, _ATEN.bmm.default})
NARROW = 8
"""A product with a matrix that is so many times longer than wide is quick for the size of its result: those of LoRA are."""


def keep_all(num_tokens: int) -> CheckpointingMode:
    """No checkpointing, whatever the number of tokens."""
    return "none"


_KEPT_PRODUCTS: ContextVar[list[int] | None] = ContextVar("bytes of kept products", default=None)


@contextmanager
def counted_products() -> Iterator[list[int]]:
    """Collects the bytes of every matrix product that ``selective`` checkpointing keeps in the forward passes inside the block."""
    kept: list[int] = []
    token = _KEPT_PRODUCTS.set(kept)
    try:
        yield kept
    finally:
        _KEPT_PRODUCTS.reset(token)


def _is_slow(operation: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether an operation is a matrix product whose second matrix [..., k, m] is about square."""
    if operation not in PRODUCTS:
        return False
    matrix: torch.Tensor = arguments[2 if operation is _ATEN.addmm.default else 1]
    return max(matrix.shape[-2:]) < NARROW * min(matrix.shape[-2:])


class _KeepSlowOnes:
    """Keeps attention and every second slow matrix product of a forward pass; counts on its own in the pass that recomputes."""

    def __init__(self) -> None:
        self._counts = {False: 0, True: 0}

    def __call__(self, context: Any, operation: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
        """The policy of one operation."""
        if operation in ATTENTION:
            return CheckpointPolicy.MUST_SAVE
        if _is_slow(operation, arguments):
            self._counts[context.is_recompute] += 1
            if self._counts[context.is_recompute] % 2:
                if (kept := _KEPT_PRODUCTS.get()) is not None and not context.is_recompute:
                    kept.append(context.op_output.untyped_storage().nbytes())
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE


def run_block(block: Callable[..., Output], mode: CheckpointingMode, *arguments: object) -> Output:
    """The block's output. Without gradients nothing is kept, whatever ``mode`` says; gradients are equal in all modes."""
    if mode == "none" or not torch.is_grad_enabled():
        return block(*arguments)
    if mode == "full":
        output: Output = checkpoint(block, *arguments, use_reentrant=False)
        return output

    def contexts() -> Any:
        return create_selective_checkpoint_contexts(_KeepSlowOnes())

    output = checkpoint(block, *arguments, use_reentrant=False, context_fn=contexts)
    return output
