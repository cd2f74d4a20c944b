"""Read LoRA adapters of any program, for folding into weights: W + scale · B A in float32, scale = alpha / rank.

Supported are folders in PEFT's format (``adapter_config.json`` holds rank, alpha and targets) and single files in ComfyUI's format
(prefix ``diffusion_model.``, ``lora_A``/``lora_B`` or ``lora_down``/``lora_up``, and optionally ``alpha`` per module) or diffusers'
(prefix ``transformer.``, rank and alpha in the metadata). Without an alpha the scale is 1. Module names are the original's or
diffusers'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import find_adapter_files
from avpref.models.checkpoints.weight_layouts import SHOWN, Layout, in_block, is_audio, original_name, recognise
from avpref.models.synchronisers.synchroniser import is_added
from avpref.storage.weight_files import read_weights, require_shapes

PEFT_PREFIX = "base_model.model."
COMFYUI_PREFIX = "diffusion_model."
DIFFUSERS_PREFIX = "transformer."
DIFFUSERS_METADATA = "lora_adapter_metadata"
"""Key of the metadata in which diffusers keeps the adapter's configuration: JSON, keys with the prefix."""

_TENSOR = re.compile(
    rf"(?P<prefix>{re.escape(PEFT_PREFIX)}|{re.escape(COMFYUI_PREFIX)}|transformer\.)?(?P<module>.+?)"
    r"\.(?:(?P<factor>lora_(?:A|B|down|up))(?:\.\w+)?\.weight|alpha)"
)
_PARTS: Mapping[str | None, str] = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B", None: "alpha"}
_UNSUPPORTED = (
    *("use_rslora", "use_dora", "use_qalora", "rank_pattern", "alpha_pattern", "modules_to_save", "exclude_modules"),
    *("layers_to_transform", "fan_in_fan_out", "lora_bias", "target_parameters", "trainable_token_indices"),
)
_FIX = "point at an adapter that was trained on this network"


Targets = tuple[str, ...] | str


@dataclass(frozen=True)
class _Config:
    """Contents of ``adapter_config.json``, or of the metadata of a file of diffusers, whose targets are not read."""

    rank: int
    alpha: float
    targets: Targets | None


@dataclass(frozen=True)
class Factors:
    """Update scale · B A of one linear layer: ``down`` is A [r, inputs], ``up`` is B [outputs, r], scale = alpha / r."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.down.shape[0]

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Tensor:
        """``weight`` [outputs, inputs] plus the update, float32, on the weight's device."""
        up, down = (factor.to(weight.device, torch.float32) for factor in (self.up, self.down))
        return torch.addmm(weight.float(), up, down, alpha=self.alpha / self.rank)


@dataclass(frozen=True)
class Lora:
    """An adapter: factors by the original's module names, and the targets of its configuration (None without one).

    ``targets`` follow PEFT: a tuple of module names or name suffixes after a dot, or one regular expression.
    """

    source: Path
    factors: Mapping[str, Factors]
    targets: Targets | None = None

    def video_only(self) -> Lora:
        """The adapter without the audio branch and without an added synchroniser, for networks and programs that have none."""
        kept = {name: pair for name, pair in self.factors.items() if not is_audio(name) and not is_added(name)}
        return Lora(self.source, kept)

    def require_fit(self, network: nn.Module, fix: str = _FIX) -> None:
        """Raises InputError, naming the differences, unless the adapter has factors for exactly the targeted layers of ``network``.

        Without a configuration the targets are the modules of the file, required in every block.
        """
        linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        expected = {name: tuple(linears[name].weight.shape) for name in self._targeted(linears)}
        adapted = {name: (pair.up.shape[0], pair.down.shape[1]) for name, pair in self.factors.items()}
        require_shapes(
            f"the adapter {self.source} ({len(adapted)} linears)",
            {name: shape for module in adapted for name, shape in self._factor_shapes(module, adapted[module]).items()},
            {
                name: shape
                for module in expected
                for name, shape in self._factor_shapes(module, expected[module]).items()
            },
            fix,
        )

    @torch.no_grad()
    def fold_into(self, network: nn.Module) -> None:
        """Add the update to the weights of ``network``, in place: in float32, then in the weight's dtype.

        Raises InputError, naming the differences, for an adapter that does not fit; nothing is changed then.
        """
        self.require_fit(network)
        linears = dict(network.named_modules())
        for name, factors in self.factors.items():
            layer = linears[name]
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(factors.merged(layer.weight))

    def _factor_shapes(self, module: str, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Shapes of A and B of ``module``, a linear layer of ``shape`` (outputs, inputs)."""
        rank = self.factors[module].rank if module in self.factors else next(iter(self.factors.values())).rank
        return {f"{module}.lora_A.weight": (rank, shape[1]), f"{module}.lora_B.weight": (shape[0], rank)}

    def _targeted(self, linears: Iterable[str]) -> list[str]:
        match self.targets:
            case "all-linear":
                return list(linears)
            case str(pattern):
                return [name for name in linears if re.fullmatch(pattern, name)]
            case None:
                suffixes = {in_block(name) for name in self.factors}
            case names:
                suffixes = set(names)
        return [name for name in linears if any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)]


def read_lora(path: Path) -> Lora:
    """Read the adapter at ``path``, a folder in PEFT's format or one file, under the original's module names.

    Raises InputError as :func:`read_factors`, and for an adapter of another base.
    """
    lora = read_factors(path)
    if recognise(lora.factors, path) is Layout.DIFFUSERS:
        return replace(lora, factors={original_name(module): pair for module, pair in lora.factors.items()})
    return lora


def read_factors(path: Path) -> Lora:
    """The adapter of any base at ``path``, under the module names of its files, without their prefix.

    Raises InputError for files that are absent, unreadable or truncated, for tensors that are not LoRA factors, for factors without
    their partner or of another rank than configured, and for kinds other than plain LoRA (DoRA, rank-stabilised, ...).
    """
    if path.is_dir():
        config_path, weights_path = find_adapter_files(path)
        return _assemble(path, read_weights(weights_path), _read_config(config_path))
    tensors = read_weights(path)
    if any(name.startswith(PEFT_PREFIX) for name in tensors):
        found = f"{path} is part of a folder in PEFT's format, whose configuration holds the scale"
        raise InputError(found, "the folder, or a file in ComfyUI's format", f"give the path {path.parent}")
    return _assemble(path, tensors, _metadata_config(path) if path.suffix == ".safetensors" else None)


def _metadata_config(path: Path) -> _Config | None:
    """Rank and alpha in the metadata of a file that diffusers wrote; None where it has none. Raises InputError for another kind."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(DIFFUSERS_METADATA)
    if text is None:
        return None
    try:
        values = {name.removeprefix(DIFFUSERS_PREFIX): value for name, value in json.loads(text).items()}
        config = _Config(int(values["r"]), float(values["lora_alpha"]), None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the metadata of {path} cannot be read: {error!r}", "rank and alpha of an adapter", _FIX
        ) from error
    _refuse_unsupported(path, values)
    return config


def _read_config(path: Path) -> _Config:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        modules = values["target_modules"]
        targets = re.compile(modules).pattern if isinstance(modules, str) else tuple(str(name) for name in modules)
        config = _Config(int(values["r"]), float(values["lora_alpha"]), targets)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise InputError(f"{path} cannot be read: {error!r}", "a LoRA adapter in PEFT's format", _FIX) from error
    _refuse_unsupported(path, values)
    return config


def _refuse_unsupported(path: Path, values: Mapping[str, object]) -> None:
    """Raises InputError for a configuration of another kind than plain LoRA."""
    unsupported = [key for key in _UNSUPPORTED if values.get(key)]
    if unsupported or values.get("bias", "none") != "none":
        raise InputError(f"{path} uses {', '.join(unsupported) or 'bias'}", "a plain LoRA adapter without biases", _FIX)


def _assemble(path: Path, tensors: Mapping[str, Tensor], config: _Config | None) -> Lora:
    """The adapter in ``tensors``; ``config`` is None for a single file, whose tensors hold the scale."""
    parts = {module: _factors(path, module, group, config) for module, group in _by_module(path, tensors).items()}
    return Lora(path, parts, None if config is None else config.targets)


def _by_module(path: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
    """Tensors ``A``, ``B`` and ``alpha`` by module. Raises InputError for other or duplicate tensors."""
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or not isinstance(tensor, Tensor):
            unknown.append(name)
            continue
        part, module_parts = _PARTS[match["factor"]], parts.setdefault(match["module"], {})
        if part in module_parts:
            unknown.append(name)
        module_parts[part] = tensor
    if unknown or not parts:
        found = f"{path}: {len(unknown)} tensors that are no LoRA factors ({', '.join(sorted(unknown)[:SHOWN])})"
        raise InputError(found, "A and B of every linear, each once", _FIX)
    return parts


def _factors(path: Path, module: str, tensors: Mapping[str, Tensor], config: _Config | None) -> Factors:
    expected = {"A", "B"} if config else {"A", "B"} | ({"alpha"} & tensors.keys())
    if tensors.keys() != expected:
        raise InputError(f"{path}: {module} has {', '.join(sorted(tensors))}", "A and B of every linear", _FIX)
    down, up = tensors["A"], tensors["B"]
    if down.dim() != 2 or up.dim() != 2 or not 0 < down.shape[0] == up.shape[1]:
        shapes = f"A {tuple(down.shape)} and B {tuple(up.shape)}"
        raise InputError(f"{path}: {module} has {shapes}", "[rank, inputs] and [outputs, rank]", _FIX)
    rank = down.shape[0]
    if config is None:
        return Factors(down, up, tensors["alpha"].item() if "alpha" in tensors else float(rank))
    if rank != config.rank:
        raise InputError(
            f"{path}: {module} has rank {rank}", f"rank {config.rank}, as {path.name}'s configuration", _FIX
        )
    return Factors(down, up, config.alpha)
