"""AdamW over the trained parameters: fused with float32 moments, or with 8-bit moments of torchao."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from avpref.config.training_settings import OptimiserSettings
from avpref.errors import ConfigError


def make_optimiser(parameters: Iterable[nn.Parameter], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """AdamW with the settings' values. Raises ConfigError for 8-bit moments where torchao is not installed."""
    if settings.state_bits == 32:
        return torch.optim.AdamW(
            parameters,
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "optimiser.state_bits 8, and torchao cannot be imported",
            "the extra low-memory",
            "pip install 'avpref[low-memory]', or --set dpo.optimiser.state_bits=32",
        ) from error
    optimiser: torch.optim.Optimizer = AdamW8bit(
        list(parameters), lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )
    return optimiser


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Learning rate of ``step`` (0-based) of ``steps``: linear warm-up lr (k + 1) / (w + 1), then constant, or half a cosine.

    The cosine falls from lr to ``min_lr_share`` * lr between the end of the warm-up and the last step.
    """
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    if settings.schedule == "constant":
        return settings.lr * warm
    span = max(1, steps - 1 - settings.warmup_steps)
    progress = min(1.0, max(0.0, (step - settings.warmup_steps) / span))
    share = settings.min_lr_share
    return settings.lr * warm * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of all parameters; a tensor is filled, so that compiled steps are not compiled again."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
