"""Export of an adapter in the layout of another program, read back and compared before it appears."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import torch

from avpref.errors import InputError
from avpref.exchange.adapter_card import AdapterCard, adapter_card
from avpref.exchange.adapter_source import AdapterSource
from avpref.exchange.evaluation_clips import copy_clips
from avpref.exchange.staged_folder import staged_folder
from avpref.models.checkpoints.diffusers_lora import save_diffusers_adapter
from avpref.models.checkpoints.exporting import save_comfyui_adapter, save_peft_adapter
from avpref.models.checkpoints.lora_files import Factors, Lora, read_lora
from avpref.models.dit import NetworkConfig

AdapterLayout = Literal["peft", "diffusers", "comfyui"]
Part = Literal["all", "video"]
COMFYUI_FILE = "avpref_lora.safetensors"
CARD_FILE, NETWORK_FILE = "README.md", "network.json"


@dataclass(frozen=True)
class AdapterExport:
    """An export: the new folder ``out``, the layout, the part of the adapter, and what the card says about the base on a hub."""

    out: Path
    layout: AdapterLayout = "peft"
    part: Part = "all"
    base_model: str = ""
    revision: str = ""
    num_clips: int = 3


def export_adapter(source: AdapterSource, request: AdapterExport) -> list[str]:
    """Write the adapter, its card and clips before and after training into a new folder; returns the names of its files.

    ``part`` ``video`` leaves the audio branch out, for programs whose network has none. Raises InputError where ``out`` is not
    empty or the files do not give the same factors and scales when they are read back, StorageError.
    """
    lora = read_lora(source.folder)
    wanted = lora.video_only() if request.part == "video" else lora
    with staged_folder(request.out) as staging:
        files = _write(wanted, request.layout, staging)
        require_same(wanted, files, source.folder)
        clips = copy_clips(source.run, staging, request.num_clips)
        card = AdapterCard(source, wanted, request.layout, request.base_model, request.revision, clips)
        (staging / CARD_FILE).write_text(adapter_card(card), encoding="utf-8")
        network = NetworkConfig.from_settings(source.run.settings.network)
        (staging / NETWORK_FILE).write_text(network.to_json(), encoding="utf-8")
        return sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())


def _write(lora: Lora, layout: AdapterLayout, folder: Path) -> list[Path]:
    """Write the adapter; returns the paths from which :func:`read_lora` reads it back."""
    match layout:
        case "peft":
            save_peft_adapter(lora, folder)
            return [folder]
        case "diffusers":
            return save_diffusers_adapter(lora, folder)
        case "comfyui":
            save_comfyui_adapter(lora, folder / COMFYUI_FILE)
            return [folder / COMFYUI_FILE]
        case _:
            assert_never(layout)


def require_same(lora: Lora, paths: list[Path], source: Path) -> None:
    """Raises InputError unless the adapter in ``paths`` has the modules, factors (bit by bit) and scales of ``lora``."""
    again: dict[str, Factors] = {}
    for path in paths:
        again |= read_lora(path).factors
    different = sorted(lora.factors.keys() ^ again.keys())
    different += [name for name, pair in lora.factors.items() if name in again and not _is_same(pair, again[name])]
    if different:
        found = f"{source}: {len(different)} modules differ when the export is read back, first {different[:3]}"
        raise InputError(found, "the same factors and scales", "avpref adapters export --layout comfyui")


def _is_same(first: Factors, second: Factors) -> bool:
    return first.alpha == second.alpha and torch.equal(first.down, second.down) and torch.equal(first.up, second.up)
