"""Loads the tensors of a file into a network of an optional library: tensors only, and exactly those of the network.

Loaders of such libraries run what a pickle says, or keep random values for tensors that a file lacks; both are refused here.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from avpref.errors import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training tools keep the tensors of a network beside other values."""
PARALLEL = "module."
"""Prefix of all names where the network was trained inside ``DataParallel``."""
MOST_NAMES = 5


def read_tensors(scorer: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of one that ``torch.save`` wrote, on the CPU, by name.

    Raises InputError for a file that holds other objects than tensors and plain values, or no mapping of tensors.
    """
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise _wrong(scorer, path, f"cannot be read as tensors: {cause}") from error
    for key in WRAPPERS:
        loaded = loaded[key] if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping) else loaded
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise _wrong(scorer, path, "holds no mapping of names to tensors")
    has_prefix = bool(loaded) and all(name.startswith(PARALLEL) for name in loaded)
    return {name.removeprefix(PARALLEL) if has_prefix else name: value for name, value in loaded.items()}


def fill_network(scorer: str, network: nn.Module, path: Path) -> None:
    """Load the tensors of ``path`` into ``network``.

    Raises InputError as :func:`read_tensors`, and for absent tensors, tensors of another shape, and tensors that the network lacks.
    """
    tensors, own = read_tensors(scorer, path), network.state_dict()
    shared = tensors.keys() & own.keys()
    problems = [
        *_listed("lacks", own.keys() - shared),
        *_listed("has besides", tensors.keys() - shared),
        *_listed("has in another shape", (name for name in shared if tensors[name].shape != own[name].shape)),
    ]
    if problems:
        raise _wrong(scorer, path, f"does not fit {type(network).__name__}: it {'; it '.join(problems)}")
    network.load_state_dict(tensors, strict=True)


def _listed(verb: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    more = f" and {len(ordered) - MOST_NAMES} more" if len(ordered) > MOST_NAMES else ""
    return [f"{verb} {', '.join(ordered[:MOST_NAMES])}{more}"] if ordered else []


def _wrong(scorer: str, path: Path, problem: str) -> InputError:
    return InputError(
        f"scorer {scorer}: {path} {problem}",
        "the weights of this network, as tensors (.safetensors, or saved by torch.save)",
        "name the published file of this network in the scorer's settings, or download it again",
    )
