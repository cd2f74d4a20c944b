"""Published weights on disk: a file, a folder as the libraries save it, or a repository in the Hugging Face cache.

A folder holds ``config.json`` and either one file of weights or shards with an index. Nothing is ever downloaded here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from avpref.errors import InputError
from avpref.file_hashes import sha256_of
from avpref.identity import digest
from avpref.weight_files import read_weights

CONFIG = "config.json"
SINGLE_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
INDEX_SUFFIX = ".index.json"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Published:
    """A folder of a repository on the Hugging Face hub, and the configuration's key that names another one.

    ``landmark`` is a file of that folder by which it is found in the cache.
    """

    repo: str
    folder: str
    key: str
    landmark: str = CONFIG

    def locate(self, given: str) -> Path:
        """``given``, or where it is empty the folder in the cache. Raises InputError where there is nothing."""
        if given:
            path = Path(given).expanduser()
            if not path.exists():
                raise InputError(f"{self.key} is {given}: no such file or folder", "weights", f"--set {self.key}=PATH")
            return path
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, f"{self.folder}/{self.landmark}")
        if not isinstance(found, str):
            raise InputError(
                f"{self.repo}: no {self.folder}/ in the Hugging Face cache",
                f"the folder {self.folder}/ of {self.repo}, or {self.key}",
                f"hf download {self.repo} --include '{self.folder}/*'   or: --set {self.key}=PATH",
            )
        return Path(found).parent


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files of weights that ``path`` is or holds: shards in the order of their names. Raises InputError for none."""
    if not path.is_dir():
        return (path,)
    for index in sorted(path.glob(f"*{INDEX_SUFFIX}")):
        return tuple(path / name for name in sorted(_shards(index)))
    for name in SINGLE_FILES:
        if (path / name).is_file():
            return (path / name,)
    raise InputError(f"{path} holds no weights", " or ".join((*SINGLE_FILES, f"*{INDEX_SUFFIX}")), "check the path")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of ``path`` (file or folder), on the CPU, in their own dtype.

    Raises InputError for what is absent, cut short, not tensors by name, or twice in the shards.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        found = read_weights(file)
        strange = [name for name, value in found.items() if not isinstance(value, Tensor)]
        twice = [name for name in found if name in tensors]
        if strange or twice:
            raise InputError(
                f"{file}: {(strange or twice)[0]} is " + ("no tensor" if strange else "in another shard, too"),
                "tensors by name, each once",
                f"delete {file.name} and fetch it again",
            )
        tensors.update(found)
    return tensors


def read_json(file: Path) -> Mapping[str, Json]:
    """A JSON object. Raises InputError where the file is absent or holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}", "a JSON object", "check the path") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds a {type(found).__name__}", "a JSON object", "check the path")
    return found


def require_values(folder: Path, config: Mapping[str, object], expected: Mapping[str, object], what: str) -> None:
    """Raises InputError that names the first value of ``config`` that is not as ``expected``."""
    for name, value in expected.items():
        if config.get(name) != value:
            raise InputError(
                f"{folder}: {name} is {config.get(name)}", f"{name} {value}, as in {what}", f"use the weights of {what}"
            )


def content_hash(path: Path) -> str:
    """Hash of the configuration and of all bytes of weights at ``path``; names and places do not enter."""
    config = path / CONFIG if path.is_dir() else None
    files = [config] if config is not None and config.is_file() else []
    return digest("weights", [sha256_of(file) for file in (*files, *weight_files(path))])


def _shards(index: Path) -> set[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index} has no weight_map", "tensor names and their files", f"fetch {index.name} again")
    return {str(name) for name in names.values()}
