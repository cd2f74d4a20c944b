"""Networks of base models as files of the product: one safetensors file with the names of the network's state dict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open

from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, SchemaVersionError
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.checkpoints.checkpoint_files import ADAPTER_CONFIG, find_adapter_files, write_tensors
from avpref.storage.local_files import replace
from avpref.storage.weight_files import fit, on_meta, read_weights

METADATA_KEY = "avpref_base"


def save_own(
    path: Path, network: VelocityNetwork, identity: Mapping[str, JsonValue], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the state dict and, as metadata, schema version, ``identity`` and ``metadata``; whole or not at all.

    Equal networks give equal bytes. Raises StorageError.
    """
    own = {**(metadata or {}), "schema": SCHEMA_VERSION, "identity": dict(identity)}
    write_tensors(path, network.state_dict(), {METADATA_KEY: json.dumps(own, sort_keys=True)})


def load_own(
    path: Path,
    build: Callable[[], VelocityNetwork],
    identity: Mapping[str, JsonValue],
    device: torch.device | str = "cpu",
) -> VelocityNetwork:
    """The network in ``path``, in the file's dtype, on ``device``.

    Raises InputError for a file that is absent or unreadable, that a base model of another ``identity`` wrote, or with missing,
    surplus or misshapen tensors; SchemaVersionError for a file of another schema version. Files without metadata pass.
    """
    recorded = _metadata(path)
    if recorded.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has schema {recorded['schema']}", f"schema {SCHEMA_VERSION}", "train it again"
        )
    saved = recorded.get("identity", dict(identity))
    if saved != dict(identity):
        raise InputError(
            f"{path} was saved by another base model or version: {json.dumps(saved, sort_keys=True)}",
            json.dumps(dict(identity), sort_keys=True),
            "name the weights of this base model, or set section base as it was",
        )
    network = on_meta(build)
    fit(network, read_weights(path), path, device=device)
    return network.train().requires_grad_(True)


def copy_adapter(adapter: Path, output: Path) -> None:
    """Copy an adapter folder in PEFT's format; its configuration, which marks it as whole, last. Raises InputError, StorageError."""
    config, weights = find_adapter_files(adapter)
    replace(output / weights.name, weights.read_bytes())
    replace(output / ADAPTER_CONFIG, config.read_bytes())


def _metadata(path: Path) -> Mapping[str, object]:
    try:
        with safe_open(path, framework="pt") as file:
            recorded: dict[str, object] = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return recorded
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "a safetensors file", "check the path") from error
