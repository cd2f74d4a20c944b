"""Locate published codecs and encoders: a folder with ``config.json``, or a repository in the Hugging Face cache.

This module downloads nothing. :mod:`avpref.models.checkpoints.checkpoint_files` finds and reads the weight files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avpref.errors import InputError
from avpref.identity import digest
from avpref.models.checkpoints.checkpoint_files import find_checkpoint
from avpref.storage.file_hashes import sha256_of

CONFIG = "config.json"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Published:
    """A folder of a repository on the Hugging Face hub (empty: its root), and the configuration key that overrides it.

    ``landmark`` is a file of that folder, used to find it in the cache.
    """

    repo: str
    folder: str
    key: str
    landmark: str = CONFIG

    def locate(self, configured: str) -> Path:
        """The path ``configured``, or, if that is empty, the folder in the cache. Raises InputError if it does not exist."""
        if configured:
            path = Path(configured).expanduser()
            if not path.exists():
                raise InputError(f"{self.key}={configured} is absent", "a file or folder", f"--set {self.key}=PATH")
            return path
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, f"{self.folder}/{self.landmark}" if self.folder else self.landmark)
        if not isinstance(cached, str):
            name = f"{self.repo} has no {self.folder}/ in" if self.folder else f"{self.repo} is not in"
            part = f" --include '{self.folder}/*'" if self.folder else ""
            raise InputError(
                f"{name} the Hugging Face cache",
                f"that {'folder' if self.folder else 'repository'}, or {self.key} with a path",
                f"hf download {self.repo}{part}",
            )
        return Path(cached).parent


def read_json(file: Path) -> Mapping[str, Json]:
    """Read a JSON object. Raises InputError if the file is absent or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}", "a JSON object", "check the path") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}", "a JSON object", "check the path")
    return content


def require_values(source: Path, values: Mapping[str, object], expected: Mapping[str, object], owner: str) -> None:
    """Raises InputError naming the first of ``values`` that differs from ``expected``, the values of ``owner``'s weights."""
    for name, value in expected.items():
        if values.get(name) != value:
            raise InputError(
                f"{source}: {name} is {values.get(name)}", f"{value}, as {owner} has it", f"use the weights of {owner}"
            )


def weights_hash(path: Path) -> str:
    """Hash of configuration and weights at ``path``, independent of the path itself. Raises InputError for no weights."""
    config = path / CONFIG
    files = [config] if config.is_file() else []
    return digest("weights", [sha256_of(file) for file in (*files, *find_checkpoint(path).files)])
