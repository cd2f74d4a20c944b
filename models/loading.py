"""Networks on disk: one safetensors file, checked tensor by tensor before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, SchemaVersionError
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.weight_files import require_shapes

METADATA_KEY = "avpref"

Shapes = Mapping[str, tuple[int, ...]]


def save_network(path: Path | str, network: JavisDiT, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state dict and, as metadata, schema version, configuration, model type and ``metadata``.

    The file appears whole or not at all, and equal networks give equal bytes: all metadata is one key, because safetensors
    writes several in no fixed order. Raises OSError where it cannot be written.
    """
    own = {
        "avpref_schema": str(SCHEMA_VERSION),
        "config": network.config.to_json(),
        "model_type": str(network.model_type),
    }
    everything = json.dumps({**(metadata or {}), **own}, sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    partial = Path(f"{path}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, metadata={METADATA_KEY: everything})
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_network(
    path: Path | str, config: NetworkConfig, model_type: ModelType, device: torch.device | str = "cpu"
) -> JavisDiT:
    """A network with exactly the tensors of ``path``, in the file's dtype, on ``device``.

    Raises InputError where the file is absent or unreadable, was saved with another configuration, lacks a tensor, has
    one of another shape, or has one too many; SchemaVersionError where another schema version wrote it.
    """
    shapes, metadata = _read_header(Path(path))
    _check_metadata(path, metadata, config)
    with torch.device("meta"):
        network = JavisDiT(config, model_type)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    fix = "check the path, the model type and the section `network` of the configuration"
    require_shapes(path, shapes, expected, fix)
    network.load_state_dict(load_file(path, device=str(device)), assign=True)
    return network


def state_hash(network: nn.Module) -> str:
    """SHA-256 of a state dict: names, dtypes, shapes and values in name order, 64 hex characters.

    Invariant: saving, loading and moving between devices do not change it; changing one value does.
    """
    hashed = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        hashed.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        hashed.update(flat.view(torch.uint8).numpy())
    return hashed.hexdigest()


def _read_header(path: Path) -> tuple[Shapes, Mapping[str, str]]:
    """Shapes by name, and metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}, metadata
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "a safetensors file", "check the path") from error


def _check_metadata(path: Path | str, metadata: Mapping[str, str], config: NetworkConfig) -> None:
    """Files of others carry no metadata and pass."""
    schema = metadata.get("avpref_schema", str(SCHEMA_VERSION))
    if schema != str(SCHEMA_VERSION):
        raise SchemaVersionError(f"{path} has schema {schema}", f"schema {SCHEMA_VERSION}", "train the network again")
    saved = metadata.get("config", config.to_json())
    if saved != config.to_json():
        mine, theirs = json.loads(config.to_json()), json.loads(saved)
        changed = [name for name in mine if mine[name] != theirs.get(name)]
        raise InputError(
            f"{path} was saved with " + ", ".join(f"{name}={theirs.get(name)}" for name in changed),
            ", ".join(f"{name}={mine[name]}" for name in changed),
            "give the section `network` of the configuration the saved values",
        )
