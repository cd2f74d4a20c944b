"""Find the weight files of a network and read their tensors under plain names.

A checkpoint is a file, a folder with one file or with shards and their index, or a folder that contains such a folder:
``transformer/`` of a diffusers pipeline, or ``model/`` of a JavisDiT-v1.0 release with its adapter in ``lora/``. Safetensors and
torch files are memory-mapped, so that only the used parts are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from avpref.errors import InputError
from avpref.identity import digest
from avpref.models.blocks import EPS
from avpref.models.checkpoints.weight_layouts import SHOWN
from avpref.models.dit import NetworkConfig
from avpref.storage.file_hashes import sha256_of
from avpref.storage.local_files import replacing
from avpref.storage.weight_files import read_weights

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
HASH_LENGTH = 64
_OS_ERROR = re.compile(r"os error (\d+)")

_INDEX = ".index.json"
_ENDINGS = ((".safetensors",), (".bin", ".pth", ".pt"))
"""In order of preference: of a folder with both kinds, the first is read."""
_CLASSES = ("WanModel", "WanTransformer3DModel")
_WRAPPERS = re.compile(r"^(?:module\.)?(?:base_model\.model\.)?")
_ADAPTER = re.compile(r"\.lora_(?:A|B)(?:\.\w+)?\.weight$")


@dataclass(frozen=True)
class Checkpoint:
    """Files of one network. ``index``: file name by tensor, for sharded weights; ``adapter``: the folder ``lora/``, if any."""

    path: Path
    files: tuple[Path, ...]
    index: Mapping[str, str] | None = None
    adapter: Path | None = None

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self.files[0].parent

    @property
    def is_release(self) -> bool:
        """Whether ``path`` is a JavisDiT-v1.0 folder: weights in ``model/``, an adapter (if any) in ``lora/``."""
        return self.folder == self.path / "model"


def find_checkpoint(path: Path) -> Checkpoint:
    """Find the files of the network at ``path`` without opening them.

    Raises InputError for no file, for an ambiguous choice, and for an index that names an absent shard.
    """
    if path.is_file():
        return Checkpoint(path, (path,))
    if not path.is_dir():
        raise InputError(f"{path} is absent", "a file of weights or a folder with them", "check the path")
    adapter = path / "lora" if (path / "lora").is_dir() else None
    folder = next((path / name for name in ("model", "transformer") if (path / name).is_dir()), path)
    indices = _first_kind(folder, _INDEX)
    if len(indices) == 1:
        index = _read_index(indices[0])
        shards = tuple(folder / name for name in sorted(set(index.values())))
        return Checkpoint(path, shards, index, adapter)
    files = indices or _first_kind(folder)
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:SHOWN]) or "no file of weights"
        fix = "give the path of one file, or put the shards' index back" if files else "check the path"
        raise InputError(f"{folder} holds {names}", "one file of weights, or shards with one index", fix)
    return Checkpoint(path, tuple(files), None, adapter)


def holds_weights(folder: Path) -> bool:
    """Whether ``folder`` exists and holds weight files or an index, other than an adapter's."""
    return folder.is_dir() and any(_first_kind(folder, suffix) for suffix in ("", _INDEX))


def _first_kind(folder: Path, suffix: str = "") -> list[Path]:
    """Files of the most preferred kind in ``folder``; ``suffix`` follows the ending."""
    for endings in _ENDINGS:
        suffixes = tuple(f"{ending}{suffix}" for ending in endings)
        files = [file for file in sorted(folder.iterdir()) if file.name.endswith(suffixes) and file.is_file()]
        if files := [file for file in files if file.name not in ADAPTER_WEIGHTS]:
            return files
    return []


def _read_index(path: Path) -> Mapping[str, str]:
    """File name by tensor. Raises InputError for a broken index or an absent shard."""
    fix = f"fetch {path.parent.name} again"
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        index = {str(name): str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {error!r}", "an index with a weight_map", fix) from error
    absent = [
        name for name in sorted(set(index.values())) if Path(name).name != name or not (path.parent / name).is_file()
    ]
    if absent or not index:
        raise InputError(
            f"{path} names {', '.join(absent[:SHOWN]) or 'no shard'}, absent", "shards beside their index", fix
        )
    return index


def require_same_config(folder: Path, config: NetworkConfig) -> None:
    """Compare values that shapes do not determine with Wan's or diffusers' ``config.json`` in ``folder``, if it has one.

    Raises InputError naming the values that differ.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "a network's configuration", "fetch it again") from error
    if not isinstance(values, dict) or values.get("_class_name") not in _CLASSES:
        return
    heads, length = config.num_heads, config.text_len
    expected_values = {"num_heads": heads, "num_attention_heads": heads, "text_len": length, "eps": EPS}
    changed = [name for name, value in expected_values.items() if values.get(name, value) != value]
    if changed:
        found = f"{path}: " + ", ".join(f"{name} {values[name]}" for name in changed)
        expected = ", ".join(f"{name} {expected_values[name]}" for name in changed)
        raise InputError(found, expected, "give the section `network` of the configuration the file's values")


def read_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, in the files' dtypes. Name parts of wrappers (``module.``, ``base_layer.``, ...) are removed.

    Raises InputError for an unreadable file, values that are not tensors, a duplicate name, and shards that differ from their
    index.
    """
    tensors: dict[str, Tensor] = {}
    for file in checkpoint.files:
        content = read_weights(file)
        _require_indexed(checkpoint, file, content)
        for name, tensor in content.items():
            plain = _WRAPPERS.sub("", str(name)).replace(".base_layer.", ".")
            if not isinstance(tensor, Tensor):
                found = f"{file}: {name} is a {type(tensor).__name__}"
                raise InputError(found, "tensors by name", "give the file of the network's own weights")
            if plain in tensors:
                raise InputError(f"{file}: {name} comes twice", "each tensor once", "fetch or export the weights again")
            tensors[plain] = tensor
    return tensors


def _require_indexed(checkpoint: Checkpoint, file: Path, names: Iterable[str]) -> None:
    if checkpoint.index is None:
        return
    listed = {name for name, file_name in checkpoint.index.items() if file_name == file.name}
    unmatched = sorted(listed.symmetric_difference(names))
    if unmatched:
        differences = f"{len(unmatched)} tensors differ from the index ({', '.join(unmatched[:SHOWN])})"
        raise InputError(
            f"{file}: {differences}", f"its {len(listed)} tensors", f"delete {file.name} and fetch it again"
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file atomically. Raises StorageError if it cannot be written."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        try:
            save_file(plain, partial, metadata=dict(metadata))
        except SafetensorError as error:  # the library reports an operating system error only as text
            number = _OS_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def is_adapter_tensor(name: str) -> bool:
    """Whether ``name`` is a LoRA factor; training with an adapter stores them among the weights in ``model/``."""
    return _ADAPTER.search(name) is not None


def find_adapter_files(folder: Path) -> tuple[Path, Path]:
    """Configuration and weights of an adapter folder in PEFT's format. Raises InputError if one of them is absent."""
    weights = [folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()]
    if not weights or not (folder / ADAPTER_CONFIG).is_file():
        expected = f"{ADAPTER_CONFIG} and {' or '.join(ADAPTER_WEIGHTS)}"
        raise InputError(f"{folder} holds no whole adapter", expected, "point at the adapter's folder")
    return folder / ADAPTER_CONFIG, weights[0]


def checkpoint_hash(path: Path) -> str:
    """SHA-256 over names and bytes of the files of a network (including ``lora/``) or an adapter, 64 hex characters.

    Moving or renaming ``path`` does not change it. Hashes of large files are cached next to them
    (:func:`avpref.storage.file_hashes.sha256_of`). Raises InputError as :func:`find_checkpoint` does.
    """
    named = [[file.relative_to(path).as_posix(), sha256_of(file)] for file in sorted(_files_of(path))]
    return digest("checkpoint", named, size=HASH_LENGTH)


def _files_of(path: Path) -> tuple[Path, ...]:
    if (path / ADAPTER_CONFIG).is_file():
        return find_adapter_files(path)
    checkpoint = find_checkpoint(path)
    return checkpoint.files + (find_adapter_files(checkpoint.adapter) if checkpoint.adapter else ())
