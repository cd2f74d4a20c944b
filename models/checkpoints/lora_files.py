"""LoRA adapters of others and of our trainer, folded into weights: W + scale · B A in float32, scale = alpha / rank.

Read are PEFT's folders (``adapter_config.json`` says rank, alpha and targets) and single files in ComfyUI's manner (prefix
``diffusion_model.``, ``lora_A``/``lora_B`` or ``lora_down``/``lora_up``, and ``alpha`` per module, without which the scale is 1), under the
original's or diffusers' module names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import find_adapter_files
from avpref.models.checkpoints.weight_layouts import SHOWN, Layout, in_block, is_audio, original_name, recognise
from avpref.models.dit import JavisDiT
from avpref.storage.weight_files import read_weights, require_shapes

PEFT_PREFIX = "base_model.model."
COMFYUI_PREFIX = "diffusion_model."

_TENSOR = re.compile(
    rf"(?P<prefix>{re.escape(PEFT_PREFIX)}|{re.escape(COMFYUI_PREFIX)}|transformer\.)?(?P<module>.+?)"
    r"\.(?:(?P<factor>lora_(?:A|B|down|up))(?:\.\w+)?\.weight|alpha)"
)
_PARTS: Mapping[str | None, str] = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B", None: "alpha"}
_SPECIAL = (
    *("use_rslora", "use_dora", "use_qalora", "rank_pattern", "alpha_pattern", "modules_to_save", "exclude_modules"),
    *("layers_to_transform", "fan_in_fan_out", "lora_bias", "target_parameters", "trainable_token_indices"),
)
_FIX = "point at an adapter that was trained on this network"


Targets = tuple[str, ...] | str


@dataclass(frozen=True)
class _Config:
    """What ``adapter_config.json`` says."""

    rank: int
    alpha: float
    targets: Targets


@dataclass(frozen=True)
class Factors:
    """Update of one linear, scale · B A: ``down`` is A [r, inputs], ``up`` is B [outputs, r]."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Tensor:
        """weight [outputs, inputs] with the update, float32, on the weight's device."""
        up, down = (factor.to(weight.device, torch.float32) for factor in (self.up, self.down))
        return torch.addmm(weight.float(), up, down, alpha=self.alpha / self.rank)


@dataclass(frozen=True)
class Lora:
    """An adapter: factors by the original's module names. ``targets`` is what its configuration aims at, None without one.

    ``targets`` follow PEFT: a tuple of names, each meant whole or as what follows a dot, or one regular expression.
    """

    source: Path
    factors: Mapping[str, Factors]
    targets: Targets | None = None

    def video_only(self) -> Lora:
        """Without the audio branch's modules, for networks and programs that have none."""
        return Lora(self.source, {name: pair for name, pair in self.factors.items() if not is_audio(name)})

    def require_fit(self, network: nn.Module) -> None:
        """Raises InputError naming what differs, unless exactly the targeted linears of ``network`` (on any device) are adapted.

        Without a configuration the targets are those of the file, each of them wanted in every block.
        """
        linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        expected = {name: tuple(linears[name].weight.shape) for name in self._targeted(linears)}
        found = {name: (pair.up.shape[0], pair.down.shape[1]) for name, pair in self.factors.items()}
        require_shapes(
            f"the adapter {self.source} ({len(found)} linears)",
            {name: shape for module in found for name, shape in self._shapes(module, found[module]).items()},
            {name: shape for module in expected for name, shape in self._shapes(module, expected[module]).items()},
            _FIX,
        )

    def _shapes(self, module: str, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Shapes of A and B for a linear [outputs, inputs]."""
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


def merge_lora(network: JavisDiT, path: Path) -> None:
    """Fold the adapter at ``path`` (a folder in PEFT's format or one file) into ``network``, in place, in float32 per tensor.

    The sums are rounded once to the weights' dtype. Raises InputError as :func:`read_lora` and :meth:`Lora.require_fit` do; the network is
    then as it was.
    """
    lora = read_lora(path)
    lora.require_fit(network)
    with torch.no_grad():
        for name, factors in lora.factors.items():
            weight = network.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.copy_(factors.merged(weight))


def read_lora(path: Path) -> Lora:
    """The adapter at ``path``, a folder in PEFT's format or one file.

    Raises InputError for files that are absent, unreadable or half written, for tensors that are no LoRA factors, for factors without
    their partner or of another rank than the configuration's, and for kinds that are no plain update (DoRA, rank-stabilised, ...).
    """
    if path.is_dir():
        config_path, weights_path = find_adapter_files(path)
        return _assemble(path, read_weights(weights_path), _read_config(config_path))
    tensors = read_weights(path)
    if any(name.startswith(PEFT_PREFIX) for name in tensors):
        found = f"{path} is the inside of a folder in PEFT's format, whose configuration says the scale"
        raise InputError(found, "the folder, or a file in ComfyUI's manner", f"give the path {path.parent}")
    return _assemble(path, tensors, None)


def _read_config(path: Path) -> _Config:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        aims = values["target_modules"]
        targets = re.compile(aims).pattern if isinstance(aims, str) else tuple(str(aim) for aim in aims)
        config = _Config(int(values["r"]), float(values["lora_alpha"]), targets)
        special = [key for key in _SPECIAL if values.get(key)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise InputError(f"{path} cannot be read: {error!r}", "a LoRA adapter in PEFT's format", _FIX) from error
    if special or values.get("bias", "none") != "none":
        raise InputError(f"{path} uses {', '.join(special) or 'bias'}", "a plain LoRA adapter without biases", _FIX)
    return config


def _assemble(path: Path, tensors: Mapping[str, Tensor], config: _Config | None) -> Lora:
    """``config`` is None for a single file, whose tensors say the scale."""
    parts = {module: _factors(path, module, found, config) for module, found in _by_module(path, tensors).items()}
    if recognise(parts, path) is Layout.DIFFUSERS:
        parts = {original_name(module): pair for module, pair in parts.items()}
    return Lora(path, parts, None if config is None else config.targets)


def _by_module(path: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
    """``A``, ``B`` and ``alpha`` by module."""
    parts: dict[str, dict[str, Tensor]] = {}
    odd = []
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or not isinstance(tensor, Tensor):
            odd.append(name)
            continue
        part, of_module = _PARTS[match["factor"]], parts.setdefault(match["module"], {})
        odd += [name] * (part in of_module)
        of_module[part] = tensor
    if odd or not parts:
        found = f"{path}: {len(odd)} tensors that are no LoRA factors ({', '.join(sorted(odd)[:SHOWN])})"
        raise InputError(found, "A and B of every linear, each once", _FIX)
    return parts


def _factors(path: Path, module: str, found: Mapping[str, Tensor], config: _Config | None) -> Factors:
    wanted = {"A", "B"} if config else {"A", "B"} | ({"alpha"} & found.keys())
    if found.keys() != wanted:
        raise InputError(f"{path}: {module} has {', '.join(sorted(found))}", "A and B of every linear", _FIX)
    down, up = found["A"], found["B"]
    if down.dim() != 2 or up.dim() != 2 or not 0 < down.shape[0] == up.shape[1]:
        shapes = f"A {tuple(down.shape)} and B {tuple(up.shape)}"
        raise InputError(f"{path}: {module} has {shapes}", "[rank, inputs] and [outputs, rank]", _FIX)
    rank = down.shape[0]
    if config is None:
        return Factors(down, up, found["alpha"].item() if "alpha" in found else float(rank))
    if rank != config.rank:
        raise InputError(
            f"{path}: {module} has rank {rank}", f"rank {config.rank}, as {path.name}'s configuration", _FIX
        )
    return Factors(down, up, config.alpha)
