"""Export networks and adapters for other programs, under the original's or diffusers' names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from avpref.errors import InputError
from avpref.models.blocks import EPS
from avpref.models.checkpoints.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, holds_weights, write_tensors
from avpref.models.checkpoints.lora_files import COMFYUI_PREFIX, PEFT_PREFIX, Lora
from avpref.models.checkpoints.network_loading import own_metadata
from avpref.models.checkpoints.weight_layouts import (
    Layout,
    diffusers_name,
    in_block,
    is_audio,
    original_name,
    recognise,
)
from avpref.models.dit import JavisDiT, NetworkConfig
from avpref.models.synchronisers.synchroniser import is_added
from avpref.storage.local_files import replace, storage_errors

SHARD_BYTES = 5_000_000_000
Value = TypeVar("Value")


def to_original_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """``state`` under the original's names. Raises InputError for a name of no known layout, or of another layout than the rest."""
    return _in_layout(state, Layout.ORIGINAL)


def to_diffusers_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """``state`` under diffusers' names, and corresponding ones for the audio branch. Raises as :func:`to_original_names`."""
    return _in_layout(state, Layout.DIFFUSERS)


def _in_layout(state: Mapping[str, Value], layout: Layout) -> dict[str, Value]:
    if recognise(state, "the state") is layout:
        return dict(state)
    rename = original_name if layout is Layout.ORIGINAL else diffusers_name
    return {rename(name): value for name, value in state.items()}


def video_only(state: Mapping[str, Value]) -> dict[str, Value]:
    """``state`` without the audio branch, names unchanged; a plain Wan pipeline loads it."""
    return {name: value for name, value in state.items() if not is_audio(name)}


def save_sharded(network: JavisDiT, folder: Path, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write ``network`` under the original's names into ``folder``: ``model.safetensors``, or shards and their index.

    ``load_generator`` reads it back; the released programs read it as ``model/`` of a checkpoint. Raises as :func:`write_shards`.
    """
    write_shards(network.state_dict(), folder, "model", max_shard_bytes, own_metadata(network))


def save_diffusers(network: JavisDiT, folder: Path, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write the video part of ``network`` as a folder that diffusers' ``WanTransformer3DModel.from_pretrained`` reads.

    Raises as :func:`write_shards`, and InputError for a network that the class cannot hold: audio only, without q and k norms, or
    with an added synchroniser.
    """
    config = network.config
    if not network.model_type.has_video or not config.qk_norm:
        found = f"a {network.model_type} network with qk_norm {config.qk_norm}"
        raise InputError(found, "one with video and norms of q and k", "export it with save_sharded")
    if any(map(is_added, network.state_dict())):
        found = f"a network with synchroniser {config.synchroniser}"
        raise InputError(found, "one without added layers", "export it with --layout original")
    tensors = to_diffusers_names(video_only(network.state_dict()))
    write_shards(tensors, folder, "diffusion_pytorch_model", max_shard_bytes, {"format": "pt"})
    replace(folder / "config.json", json.dumps(_diffusers_config(config), indent=1).encode())


def _diffusers_config(config: NetworkConfig) -> Mapping[str, object]:
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": config.patch_size,
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.dim // config.num_heads,
        "in_channels": config.in_dim,
        "out_channels": config.in_dim,
        "text_dim": config.text_dim,
        "freq_dim": config.freq_dim,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "cross_attn_norm": config.cross_attn_norm,
        "qk_norm": "rms_norm_across_heads",
        "eps": EPS,
    }


def write_shards(
    tensors: Mapping[str, Tensor],
    folder: Path,
    stem: str,
    max_shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``tensors`` as ``stem``.safetensors, or as shards of at most ``max_shard_bytes`` and, last, their index.

    A larger tensor gets its own shard. One shard at a time is held in memory. Raises InputError if ``folder`` already holds weights
    (old shards would be read with new ones), StorageError if it cannot be written.
    """
    if holds_weights(folder):
        raise InputError(
            f"{folder} holds weights already", "an empty folder", "choose another folder or empty this one"
        )
    shards = list(_shards(tensors, max_shard_bytes))
    if len(shards) == 1:
        _write(folder / f"{stem}.safetensors", tensors, shards[0], metadata)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(folder / file, tensors, names, metadata)
        weight_map |= dict.fromkeys(names, file)
    index = {
        "metadata": {"total_size": sum(_num_bytes(tensor) for tensor in tensors.values())},
        "weight_map": weight_map,
    }
    replace(folder / f"{stem}.safetensors.index.json", json.dumps(index, indent=1, sort_keys=True).encode())


def _shards(tensors: Mapping[str, Tensor], max_shard_bytes: int) -> Iterator[list[str]]:
    """Names of each shard, in the order of ``tensors``."""
    names: list[str] = []
    num_bytes = 0
    for name, tensor in tensors.items():
        if names and num_bytes + _num_bytes(tensor) > max_shard_bytes:
            yield names
            names, num_bytes = [], 0
        names.append(name)
        num_bytes += _num_bytes(tensor)
    yield names


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write(path: Path, tensors: Mapping[str, Tensor], names: list[str], metadata: Mapping[str, str] | None) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {name: tensors[name] for name in names}, metadata or {})


def save_peft_adapter(lora: Lora, folder: Path, targets: Sequence[str] = ()) -> None:
    """Write ``lora`` as a folder in PEFT's format. The configuration is written last: its presence marks complete weights.

    ``targets`` are the ends of the adapted modules' names; empty: as in the blocks of JavisDiT.
    Raises InputError if layers differ in rank or alpha, StorageError if the folder cannot be written.
    """
    kinds = {(factors.rank, factors.alpha) for factors in lora.factors.values()}
    if len(kinds) != 1:
        found = f"{lora.source} has {len(kinds)} pairs of rank and alpha"
        raise InputError(found, "one pair for all layers", "export it with save_comfyui_adapter")
    ((rank, alpha),) = kinds
    tensors = {f"{PEFT_PREFIX}{name}": tensor for name, tensor in _halves(lora)}
    _write(folder / ADAPTER_WEIGHTS[0], tensors, sorted(tensors), {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets or {in_block(name) for name in lora.factors}),
        "inference_mode": True,
    }
    replace(folder / ADAPTER_CONFIG, json.dumps(config, indent=1, sort_keys=True).encode())


def save_comfyui_adapter(lora: Lora, path: Path) -> None:
    """Write ``lora`` as one safetensors file with the prefix ``diffusion_model.`` and an ``alpha`` (float32 scalar) per layer.

    Plain Wan programs have no audio branch: export ``lora.video_only()`` for them. Raises StorageError if it cannot be written.
    """
    alphas = {f"{name}.alpha": torch.tensor(factors.alpha) for name, factors in lora.factors.items()}
    tensors = {f"{COMFYUI_PREFIX}{name}": tensor for name, tensor in [*_halves(lora), *alphas.items()]}
    _write(path, tensors, sorted(tensors), {"format": "pt"})


def _halves(lora: Lora) -> Iterator[tuple[str, Tensor]]:
    for name, factors in lora.factors.items():
        yield f"{name}.lora_A.weight", factors.down
        yield f"{name}.lora_B.weight", factors.up
