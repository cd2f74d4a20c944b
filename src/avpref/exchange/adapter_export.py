"""Export of an adapter in the layout of another program, read back and compared before it appears."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from avpref.errors import ConfigError, InputError
from avpref.exchange.adapter_card import AdapterCard, adapter_card
from avpref.exchange.adapter_source import AdapterSource
from avpref.exchange.evaluation_clips import copy_clips
from avpref.exchange.staged_folder import staged_folder
from avpref.models.bases.base_model import PEFT_LAYOUT, Base, require_layout
from avpref.models.bases.base_opening import open_base
from avpref.models.bases.javis_base import COMFYUI_LAYOUT, DIFFUSERS_LAYOUT, JavisBase
from avpref.models.checkpoints.diffusers_lora import save_diffusers_adapter
from avpref.models.checkpoints.exporting import save_comfyui_adapter, save_peft_adapter
from avpref.models.checkpoints.lora_files import Factors, Lora, read_lora
from avpref.models.dit import NetworkConfig

Part = Literal["all", "video"]
COMFYUI_FILE = "avpref_lora.safetensors"
OTHER_FILE = "pytorch_lora_weights.safetensors"
"""File of an adapter of another base model than the built-in one, in a layout of one file."""
CARD_FILE, NETWORK_FILE = "README.md", "network.json"


@dataclass(frozen=True)
class AdapterExport:
    """An export: the new folder ``out``, the layout, the part of the adapter, and what the card says about the base on a hub.

    ``merged``: the whole network with the adapter folded in, instead of the adapter. An empty layout is PEFT's, or with ``merged`` the
    first of the base model's layouts of networks.
    """

    out: Path
    layout: str = ""
    part: Part = "all"
    base_model: str = ""
    revision: str = ""
    num_clips: int = 3
    merged: bool = False

    def layout_for(self, base: Base) -> str:
        """The layout to write. Raises ConfigError for one that ``base`` does not have."""
        layouts = base.network_layouts if self.merged else base.adapter_layouts
        if self.merged and not layouts:
            found = f"--merged with base model {type(base).__name__}, which exports no networks"
            raise ConfigError(found, "a base model with network_layouts", "the adapter alone: leave --merged out")
        layout = self.layout or (layouts[0] if self.merged else PEFT_LAYOUT)
        require_layout(layout, layouts)
        return layout


def export_adapter(source: AdapterSource, request: AdapterExport) -> list[str]:
    """Write the adapter, its card and clips before and after training into a new folder; returns the names of its files.

    ``part`` ``video`` leaves the audio branch out, for programs whose network has none. Raises ConfigError for a layout or part that
    the base model does not have, InputError where ``out`` is not empty or the files do not give the same factors and scales when
    they are read back, StorageError.
    """
    settings = source.run.settings
    base = open_base(settings.base_sections)
    request = replace(request, layout=request.layout_for(base))
    if request.part != "all" and request.merged:
        raise ConfigError(f"--part {request.part} with --merged", "the whole network", "--part all")
    if request.part != "all" and not isinstance(base, JavisBase):
        found = f"--part {request.part} with base model {settings.base.model}, whose adapters have no parts"
        raise ConfigError(found, "the whole adapter", "--part all")
    with staged_folder(request.out) as staging:
        lora = None
        if request.merged:
            _export_merged(source, base, request.layout, staging)
        elif isinstance(base, JavisBase) and settings.network is not None:
            lora = _export_parts(source, request, staging)
            network = NetworkConfig.from_settings(settings.network)
            (staging / NETWORK_FILE).write_text(network.to_json(), encoding="utf-8")
        else:
            output = staging if request.layout == PEFT_LAYOUT else staging / OTHER_FILE
            base.export_adapter(source.folder, output, request.layout)
        clips = copy_clips(source.run, staging, request.num_clips)
        named = request.base_model, request.revision
        card = AdapterCard(source, base.terms, lora, request.layout, *named, clips, request.merged)
        (staging / CARD_FILE).write_text(adapter_card(card), encoding="utf-8")
        return sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())


def _export_merged(source: AdapterSource, base: Base, layout: str, folder: Path) -> None:
    """Write the base network with the adapter folded in, as the policy is sampled, in the weights' own dtype."""
    from avpref.trainer.adapter_files import fold_adapter  # importing PEFT takes seconds

    network = base.load(source.checkpoint)
    fold_adapter(network, source.folder)
    base.export_network(network, folder, layout)


def _export_parts(source: AdapterSource, request: AdapterExport, folder: Path) -> Lora:
    """Write the asked part of an adapter of the built-in base model and compare it with the trained one; returns the part."""
    trained = read_lora(source.folder)
    lora = trained.video_only() if request.part == "video" else trained
    require_same(lora, _write(lora, request.layout, folder), source.folder)
    return lora


def _write(lora: Lora, layout: str, folder: Path) -> list[Path]:
    """Write the adapter; returns the paths from which :func:`read_lora` reads it back."""
    if layout == DIFFUSERS_LAYOUT:
        return save_diffusers_adapter(lora, folder)
    if layout == COMFYUI_LAYOUT:
        save_comfyui_adapter(lora, folder / COMFYUI_FILE)
        return [folder / COMFYUI_FILE]
    save_peft_adapter(lora, folder)
    return [folder]


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
