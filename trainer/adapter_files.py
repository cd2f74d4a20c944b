"""Adapters of this trainer on disk, in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

Adapters of other programs are read by :mod:`avpref.models.checkpoints.lora_files`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.storage.local_files import replace

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
TRAIN_AGAIN = "train the adapter again, or point at the right folder"


@dataclass(frozen=True)
class AdapterConfig:
    """Rank and alpha: the update of a linear layer is alpha / rank * B A."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


def save_adapter(model: PeftModel, adapter_name: str, folder: Path) -> None:
    """Write one adapter of ``model`` into ``folder``. The configuration is written last: its presence marks complete weights.

    Equal adapters give equal bytes. Raises StorageError.
    """
    weights = get_peft_model_state_dict(model, adapter_name=adapter_name)
    tensors = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    config = model.peft_config[adapter_name].to_dict() | {"inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    replace(folder / WEIGHTS_FILE, save(tensors, {"format": "pt"}))
    replace(folder / CONFIG_FILE, json.dumps(plain, indent=1, sort_keys=True, default=str).encode())


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Rank and alpha of a saved adapter. Raises InputError if it is absent, unreadable or not a plain LoRA adapter."""
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
        config = AdapterConfig(int(values["r"]), float(values["lora_alpha"]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: {error}", "a LoRA adapter in PEFT's format", TRAIN_AGAIN) from error
    unsupported = [
        key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if values.get(key)
    ]
    if unsupported:
        raise InputError(f"{path} uses {', '.join(unsupported)}", "a plain LoRA adapter", TRAIN_AGAIN)
    return config


def read_adapter_weights(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A [r, in], B [out, r]). Raises InputError if the file is unreadable or one factor of a pair is missing."""
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: {error}", "an adapter's weights", TRAIN_AGAIN) from error
    names = {name.removeprefix(PREFIX).removesuffix(f".lora_{side}.weight") for name in tensors for side in "AB"}
    modules = sorted(name for name in names if not name.endswith(".weight"))
    expected = {f"{PREFIX}{module}.lora_{side}.weight" for module in modules for side in "AB"}
    if expected != tensors.keys() or not modules:
        unpaired = sorted(expected ^ tensors.keys())
        raise InputError(
            f"{path}: {len(unpaired)} keys without a partner, first {unpaired[:3]}",
            "A and B of every linear",
            TRAIN_AGAIN,
        )
    return {m: (tensors[f"{PREFIX}{m}.lora_A.weight"], tensors[f"{PREFIX}{m}.lora_B.weight"]) for m in modules}


def fold_adapter(network: nn.Module, folder: Path) -> None:
    """Add a saved adapter to the weights of ``network``, in place: W + alpha / rank * B A in float32, then W's dtype.

    Raises InputError if the adapter names a linear layer that the network lacks or has in another shape; nothing is changed then.
    """
    _add_update(network, folder, 1.0)


def unfold_adapter(network: nn.Module, folder: Path) -> None:
    """Take a saved adapter out of the weights of ``network``, in place: the inverse of :func:`fold_adapter`, up to float32 rounding.

    Where the weights before folding were bfloat16, rounding the result to bfloat16 gives them back. Raises InputError as
    :func:`fold_adapter`, and for weights of another dtype than float32, which lost digits when the adapter was folded in.
    """
    dtypes = {str(parameter.dtype) for parameter in network.parameters()} - {str(torch.float32)}
    if dtypes:
        found = f"a network in {', '.join(sorted(dtypes))} with {folder} folded in"
        raise InputError(found, "float32, as SFT writes it", "train the SFT network again")
    _add_update(network, folder, -1.0)


@torch.no_grad()
def _add_update(network: nn.Module, folder: Path, factor: float) -> None:
    """Add ``factor`` times the update of a saved adapter to the weights."""
    config, weights = read_adapter_config(folder), read_adapter_weights(folder)
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for name, (down, up) in weights.items():
        shape = tuple(linears[name].weight.shape) if name in linears else None
        if shape != (up.shape[0], down.shape[1]):
            raise InputError(
                f"{folder}: {name} is {(up.shape[0], down.shape[1])}", f"{shape} as in the network", TRAIN_AGAIN
            )
    for name, (down, up) in weights.items():
        weight = linears[name].weight
        update = factor * config.scale * (up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32))
        weight.copy_(weight.float() + update)


def load_adapter(network: nn.Module, folder: Path) -> PeftModel:
    """``network`` with a saved adapter on it, frozen, for inference. Raises InputError if the adapter is unreadable."""
    read_adapter_config(folder)
    with torch.random.fork_rng(devices=[]):
        return PeftModel.from_pretrained(network, str(folder), is_trainable=False).eval()
