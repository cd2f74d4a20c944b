"""Codecs and encoders as their publishers keep them: a folder with ``config.json``, or a repository in the Hugging Face cache.

Nothing is ever downloaded here. The files themselves are found and read by :mod:`avpref.models.checkpoints.checkpoint_files`.
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
    """A folder of a repository on the Hugging Face hub, and the configuration's key that names another place.

    ``landmark`` is a file of that folder, by which it is found in the cache.
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
                raise InputError(f"{self.key}={given} is absent", "a file or folder", f"--set {self.key}=PATH")
            return path
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, f"{self.folder}/{self.landmark}")
        if not isinstance(found, str):
            raise InputError(
                f"{self.repo} has no {self.folder}/ in the Hugging Face cache",
                f"that folder, or {self.key} with another place",
                f"hf download {self.repo} --include '{self.folder}/*'",
            )
        return Path(found).parent


def read_json(file: Path) -> Mapping[str, Json]:
    """A JSON object. Raises InputError where the file is absent or holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}", "a JSON object", "check the path") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds a {type(found).__name__}", "a JSON object", "check the path")
    return found


def require_values(source: Path, found: Mapping[str, object], expected: Mapping[str, object], owner: str) -> None:
    """Raises InputError that names the first value of ``found`` that is not as ``expected`` of ``owner``'s weights."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise InputError(
                f"{source}: {name} is {found.get(name)}", f"{value}, as {owner} has it", f"use the weights of {owner}"
            )


def weights_hash(path: Path) -> str:
    """Hash of the configuration and of every byte of weights at ``path``, wherever it lies. Raises InputError for none."""
    config = path / CONFIG
    files = [config] if config.is_file() else []
    return digest("weights", [sha256_of(file) for file in (*files, *find_checkpoint(path).files)])
