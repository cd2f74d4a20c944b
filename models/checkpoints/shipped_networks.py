"""Networks that ship with the package: a file of weights per network, and a record of how it was trained.

A configuration names one as ``shipped:NAME`` where it could name a file. The record holds the file's SHA-256, which is checked whenever
the network is located, and everything that the training depended on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from avpref.errors import ConfigError, InputError
from avpref.identity import file_sha256
from avpref.models.checkpoints.checkpoint_files import checkpoint_hash
from avpref.models.checkpoints.weight_folders import read_json
from avpref.storage.local_files import replace

PREFIX = "shipped:"
FOLDER = Path(__file__).parents[1] / "shipped"
WEIGHTS, RECORD = ".safetensors", ".json"


@dataclass(frozen=True)
class TrainingOrigin:
    """Everything that a saved network was trained with.

    ``command`` is the command that made it, ``settings`` the sections of the configuration that the training depended on,
    ``inputs`` a hash of these sections, of the training clips and of codec and text encoder, and ``data_sha256`` the hash of the
    encoded clips. ``trained_sha256`` is the hash of the trained weights before they were rounded to ``dtype``.
    """

    command: str
    product_version: str
    seed: int
    steps: int
    inputs: str
    data_sha256: str
    trained_sha256: str
    dtype: str
    settings: Mapping[str, Any]


def locate_network(name: str, folder: Path = FOLDER) -> Path:
    """The path of the network that a configuration names: the file of ``shipped:NAME``, else ``name`` itself.

    Raises ConfigError for a network that does not ship with the package, InputError for a file whose SHA-256 is not the recorded one.
    """
    if not name.startswith(PREFIX):
        return Path(name)
    path = folder / f"{name.removeprefix(PREFIX)}{WEIGHTS}"
    if not path.is_file():
        known = ", ".join(PREFIX + file.stem for file in sorted(folder.glob(f"*{WEIGHTS}")))
        raise ConfigError(f"no network {name} ships with avpref", f"one of: {known}", f"--set sft.network={PREFIX}NAME")
    _require_recorded(path, path.stat().st_mtime_ns)
    return path


def network_hash(name: str) -> str:
    """Content hash of the network that a configuration names: the SHA-256 of a shipped one, else of all files of the checkpoint.

    Nothing is written beside a shipped network. Raises as :func:`locate_network` and
    :func:`avpref.models.checkpoints.checkpoint_files.checkpoint_hash`.
    """
    path = locate_network(name)
    return file_sha256(path) if name.startswith(PREFIX) else checkpoint_hash(path)


def write_record(weights: Path, origin: TrainingOrigin) -> Path:
    """Write the record of the network in ``weights`` beside it; returns its path. Raises StorageError."""
    path = weights.with_suffix(RECORD)
    document = {"sha256": file_sha256(weights), "num_bytes": weights.stat().st_size, **vars(origin)}
    replace(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    return path


@lru_cache
def _require_recorded(path: Path, changed_ns: int) -> None:
    """Raises InputError unless the file at ``path``, last changed at ``changed_ns``, has the SHA-256 of its record."""
    recorded, sha256 = read_json(path.with_suffix(RECORD)).get("sha256"), file_sha256(path)
    if sha256 != recorded:
        raise InputError(
            f"{path} has sha-256 {sha256[:12]}…",
            f"{str(recorded)[:12]}…, as {path.stem}{RECORD} records it",
            "pip install --force-reinstall avpref; in a checkout: git restore models/shipped",
        )
