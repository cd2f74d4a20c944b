"""Padding of texts in cross-attention, merged: some hundred equal keys become a few keys with a bias.

The original attends to all text positions. Those of the padding hold zeros, so their keys and values are equal, and n equal keys weigh in
a softmax as much as one whose logit is higher by log n. Results are those of the original up to rounding, for a fraction of the keys.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

STEP = 32
"""The number of kept positions is a multiple of this, so that batches have few different shapes."""
NUM_SHARES = 5
"""Padding keys among which the number of merged positions is divided; see :func:`biases_of`."""
_ROUNDING = float(torch.finfo(torch.bfloat16).eps)


class Context(NamedTuple):
    """Inputs of the attention to the text: ``states`` [B, K, d], and a bias [B, 1, 1, K] of the logits or None for no bias."""

    states: Tensor
    bias: Tensor | None = None


def merge_padding(text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first K positions of texts and masks, and the bias [B, 1, 1, K] (float32) that makes their padding weigh as all of it.

    ``text`` [B, L, D] and ``text_mask`` [B, L], zero for padding, come back as they are, without a bias, where nothing can be saved.
    The number K of kept positions is the smallest multiple of :data:`STEP` that holds the longest text of the batch and
    :data:`NUM_SHARES` positions of padding.
    """
    if text_mask.device.type == "meta" or text_mask.shape[1] <= STEP:
        return text, text_mask, None
    is_kept = (text_mask != 0).cpu()
    longest = int((is_kept * torch.arange(1, is_kept.shape[1] + 1)).max())
    num_kept = math.ceil((longest + NUM_SHARES) / STEP) * STEP
    if num_kept >= is_kept.shape[1]:
        return text, text_mask, None
    bias = torch.zeros(is_kept.shape[0], num_kept)
    for row, kept in zip(bias, is_kept, strict=True):
        padding = (~kept[:num_kept]).nonzero().flatten()
        row[padding] = -torch.inf
        row[padding[:NUM_SHARES]] = torch.tensor(biases_of(kept.numel() - int(kept.sum())))
    return text[:, :num_kept], text_mask[:, :num_kept], bias[:, None, None].to(text.device)


@lru_cache
def biases_of(count: int) -> tuple[float, ...]:
    """Biases of :data:`NUM_SHARES` keys that together weigh as ``count`` equal keys without a bias, within 1e-6 of ``count``.

    Every bias is a bfloat16 number, so that attention in any dtype uses it as it is. One of them would be wrong by up to one percent of
    the weight; so all but the last stay below what is to be shared, and the next ones take the rest.
    """
    biases: list[float] = []
    rest = float(count)
    for index in range(NUM_SHARES):
        exact = math.log(rest)
        is_last = index == NUM_SHARES - 1
        below = exact if is_last else exact - _ROUNDING * max(abs(exact), _ROUNDING)
        biases.append(float(torch.tensor(below).bfloat16()))
        rest -= math.exp(biases[-1])
    return tuple(biases)
