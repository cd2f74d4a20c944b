"""Adapters of several rounds: continued, joined to one, and measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig
from safetensors.torch import save

from avpref.errors import ConfigError, InputError
from avpref.storage.local_files import replace
from avpref.trainer.adapter_files import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    read_adapter_config,
    read_adapter_weights,
)
from avpref.trainer.adapters import POLICY, Policy, factors


@torch.no_grad()
def start_from(policy: Policy, folder: Path) -> None:
    """Give the policy's adapter the values of the one in ``folder``.

    Raises ConfigError for another rank or alpha, InputError for an unreadable adapter or one of another network.
    """
    config, weights = read_adapter_config(folder), read_adapter_weights(folder)
    settings = cast(LoraConfig, policy.model.peft_config[POLICY])
    if (config.rank, config.alpha) != (settings.r, settings.lora_alpha):
        found = f"dpo.adapter rank {settings.r}, alpha {settings.lora_alpha:g}"
        expected = f"rank {config.rank}, alpha {config.alpha:g}, as the adapter of the round before"
        raise ConfigError(found, expected, "--set rounds.reference=previous, or the same rank in all rounds")
    own = {name: factors(layer, POLICY) for name, layer in policy.named_layers().items()}
    shapes, saved = ({name: (a.shape, b.shape) for name, (a, b) in pairs.items()} for pairs in (own, weights))
    other = sorted(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
    if other:
        found = (
            f"{folder}: {len(other)} layers that the network lacks, has in addition or has in another shape: {other[0]}"
        )
        fix = "start from an adapter of the network that sft names, or train it again: avpref retrain"
        raise InputError(found, f"the {len(shapes)} adapted layers of this network", fix)
    for name, (down, up) in own.items():
        down.copy_(weights[name][0])
        up.copy_(weights[name][1])


def join_adapters(first: Path, second: Path, output: Path, factor: float = 1.0) -> None:
    """Write one adapter whose update is ``factor`` times that of the first plus that of the second.

    The ranks add up, alpha / rank is that of the second. Raises InputError for unreadable adapters and for adapters of different
    layers, StorageError.
    """
    scale, own = read_adapter_config(second).scale, read_adapter_weights(second)
    ratio, earlier = factor * read_adapter_config(first).scale / scale, read_adapter_weights(first)
    if own.keys() != earlier.keys():
        found = f"{first} adapts {len(earlier)} layers, {second} {len(own)}"
        raise InputError(found, "adapters of the same layers", "train both with one version of the product")
    tensors = {}
    for name, (down, up) in own.items():
        earlier_down, earlier_up = earlier[name]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.cat([down, earlier_down])
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.cat([up, ratio * earlier_up], dim=1)
    rank = read_adapter_config(first).rank + read_adapter_config(second).rank
    config = json.loads((second / CONFIG_FILE).read_text()) | {"r": rank, "lora_alpha": scale * rank}
    replace(output / WEIGHTS_FILE, save(dict(sorted(tensors.items())), {"format": "pt"}))
    replace(output / CONFIG_FILE, json.dumps(config, indent=1, sort_keys=True).encode())


def update_norm(folder: Path) -> float:
    """Frobenius norm of an adapter's whole update of the weights: the root of the sum over layers of ‖alpha / rank · B A‖².

    ‖B A‖² is the trace of (Bᵀ B)(A Aᵀ), so no product of the layer's size is made. Raises InputError for an unreadable adapter.
    """
    scale = read_adapter_config(folder).scale
    squares = [
        float(((up.double().T @ up.double()) * (down.double() @ down.double().T)).sum())
        for down, up in read_adapter_weights(folder).values()
    ]
    return scale * math.sqrt(math.fsum(squares))
