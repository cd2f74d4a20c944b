"""Export of adapters for diffusers: factors under the names of ``WanTransformer3DModel``, rank and alpha in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import write_tensors
from avpref.models.checkpoints.lora_files import DIFFUSERS_METADATA, DIFFUSERS_PREFIX, Lora
from avpref.models.checkpoints.weight_layouts import diffusers_name, in_block, is_audio
from avpref.models.synchronisers.synchroniser import is_added
from avpref.storage.local_files import storage_errors

VIDEO_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for."""
AUDIO_FILE = "audio_lora_weights.safetensors"


def save_diffusers_adapter(lora: Lora, folder: Path) -> list[Path]:
    """Write ``lora`` into ``folder``; returns the files.

    The class of diffusers has no audio branch, so the factors of the video part and of shared layers are in :data:`VIDEO_FILE`, which
    ``load_lora_adapter`` reads, and those of the audio branch in :data:`AUDIO_FILE`, under names formed alike. Raises InputError if
    layers differ in rank or alpha, or where the adapter changes an added synchroniser, which the class lacks; StorageError if the folder
    cannot be written.
    """
    if added := [name for name in lora.factors if is_added(name)]:
        found = f"{lora.source} adapts {len(added)} layers of a synchroniser, first {added[0]}"
        raise InputError(found, "layers of diffusers' class", "avpref adapters export --layout peft")
    audio = {name: pair for name, pair in lora.factors.items() if is_audio(name)}
    parts = {VIDEO_FILE: lora.video_only(), AUDIO_FILE: Lora(lora.source, audio)}
    kinds = {(factors.rank, factors.alpha) for factors in lora.factors.values()}
    if len(kinds) != 1:
        found = f"{lora.source} has {len(kinds)} pairs of rank and alpha"
        raise InputError(found, "one pair for all layers", "avpref adapters export --layout comfyui")
    ((rank, alpha),) = kinds
    return [_save(part, folder / file, rank, alpha) for file, part in parts.items() if part.factors]


def _save(lora: Lora, path: Path, rank: int, alpha: float) -> Path:
    names = {name: diffusers_name(name) for name in lora.factors}
    tensors = {}
    for name, factors in lora.factors.items():
        tensors[f"{DIFFUSERS_PREFIX}{names[name]}.lora_A.weight"] = factors.down.contiguous()
        tensors[f"{DIFFUSERS_PREFIX}{names[name]}.lora_B.weight"] = factors.up.contiguous()
    config = {"r": rank, "lora_alpha": alpha, "target_modules": sorted({in_block(name) for name in names.values()})}
    metadata = {DIFFUSERS_METADATA: json.dumps({DIFFUSERS_PREFIX + key: value for key, value in config.items()})}
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {name: tensors[name] for name in sorted(tensors)}, metadata)
    return path
