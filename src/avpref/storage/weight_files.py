"""Published weight files: read without running their code, and loaded into a network completely or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from avpref.errors import InputError

SHOWN = 3
Network = TypeVar("Network", bound=nn.Module)


def read_weights(path: Path) -> Mapping[str, Any]:
    """The content of ``path``: tensors by name, or a pickled checkpoint's mapping, on the CPU and in the file's own dtype.

    ``.safetensors`` is read as such; anything else by ``torch.load(weights_only=True)``, mapped into memory. Raises InputError
    for a file that is absent, cut short, or holds anything but plain data.
    """
    if not path.is_file():
        raise InputError(f"{path} is absent", "a file of weights", "avpref weights list")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read: {reason}", "a whole file of weights", f"delete {path.name} and fetch it again"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}", "tensors by name", "check the path")
    return content


def on_meta(build: Callable[[], Network]) -> Network:
    """The module that ``build`` makes, on the meta device: shapes without memory. :func:`fit` gives it its tensors."""
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


def fit(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    source: Path | str,
    *,
    ignored: Iterable[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> None:
    """Give ``network`` exactly its tensors, moved to ``device`` and (floating point ones) to ``dtype``.

    A name of ``tensors`` that begins with one of ``ignored`` may stay unused. Raises InputError that names the first few
    tensors that are missing, unexpected or of another shape; ``network`` is then as it was.
    """
    prefixes = tuple(ignored)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    used = {name: tensor for name, tensor in tensors.items() if name in expected or not name.startswith(prefixes)}
    require_shapes(source, {name: tuple(tensor.shape) for name, tensor in used.items()}, expected)
    moved = {name: tensor.to(device, _dtype_of(tensor, dtype)) for name, tensor in used.items()}
    network.load_state_dict(moved, assign=True)
    unset = [name for name, tensor in [*network.named_parameters(), *network.named_buffers()] if tensor.is_meta]
    assert not unset, f"tensors without values after loading: {unset[:SHOWN]}"


def _dtype_of(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def require_shapes(
    source: Path | str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    fix: str = "check that this is the file of this model: avpref weights verify",
) -> None:
    """Raises InputError that names the first few tensors of each kind of difference between ``found`` and ``expected``."""
    reshaped = [name for name in expected if found.get(name, expected[name]) != expected[name]]
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [f"{name} {found[name]} instead of {expected[name]}" for name in reshaped],
    }
    if any(differences.values()):
        raise InputError(
            f"{source} does not fit: "
            + "; ".join(_summary(kind, names) for kind, names in differences.items() if names),
            f"exactly {len(expected)} tensors",
            fix,
        )


def _summary(kind: str, names: list[str]) -> str:
    dots = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{dots})"
