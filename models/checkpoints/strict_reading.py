"""Read exactly the tensors of a network from files of any known layout, or raise an error that names the differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, SchemaVersionError
from avpref.models.checkpoints.checkpoint_files import Checkpoint, is_adapter_tensor, read_tensors, require_same_config
from avpref.models.checkpoints.weight_layouts import Layout, name_in, recognise
from avpref.models.dit import ADDED_DEFAULTS, JavisDiT, ModelType, NetworkConfig
from avpref.models.synchronisers.synchroniser import is_added
from avpref.storage.weight_files import require_shapes

METADATA_KEY = "avpref"
IGNORED = frozenset({"start_of_audio", "end_of_audio"})
"""Tensors that the original may store but never uses."""
CHECK_CONFIGURATION = "check the path, the model type and the section `network` of the configuration"
_START_AUDIO = (
    "start an audio branch with network_loading.with_audio_from_video, or give its stage-1 weights as audio_from"
)
_START_SYNCHRONISER = "train its layers: give this path as sft.network with sft.kind train; or choose network.synchroniser ta_rope or none"
_FIXES: Mapping[tuple[ModelType | None, ModelType], str] = {
    (ModelType.T2V, ModelType.T2AV): _START_AUDIO,
    (ModelType.T2V, ModelType.T2A): _START_AUDIO,
    (ModelType.T2A, ModelType.T2AV): "give the video network as `path` and this path as `audio_from`",
    (ModelType.T2AV, ModelType.T2V): "export its video part first with exporting.video_only and write_shards",
}

Shapes = Mapping[str, tuple[int, ...]]


def read_exactly(checkpoint: Checkpoint, network: JavisDiT) -> dict[str, Tensor]:
    """Exactly the tensors of ``network`` (on any device) from the files of ``checkpoint``, under the original's names.

    Raises as :func:`avpref.models.checkpoints.network_loading.load_generator` does for weights.
    """
    path = checkpoint.path
    for file in checkpoint.files:
        if file.suffix == ".safetensors":
            check_metadata(file, read_header(file)[1], network.config)
    require_same_config(checkpoint.folder, network.config)
    tensors = read_tensors(checkpoint)
    adapter = [name for name in tensors if is_adapter_tensor(name)]
    _require_adapter(checkpoint, len(adapter), len(tensors))
    own = {name: tensors[name] for name in tensors.keys() - adapter - IGNORED}
    layout = recognise(own, path)
    expected = {name_in(layout, name): shape for name, shape in shapes_of(network.state_dict()).items()}
    saved_type = _model_type(own, layout)
    fix = _FIXES.get((saved_type, network.model_type), CHECK_CONFIGURATION)
    if any(map(is_added, expected)) and not any(map(is_added, own)):
        fix = _START_SYNCHRONISER
    require_shapes(f"{path} (a {saved_type} network under {layout.value} names)", shapes_of(own), expected, fix)
    return {name: own[name_in(layout, name)] for name in network.state_dict()}


def _require_adapter(checkpoint: Checkpoint, num_factors: int, num_tensors: int) -> None:
    """Raises InputError for an adapter without a base, and for a release that was trained with an adapter but lacks ``lora/``."""
    if 0 < num_factors == num_tensors:
        found = f"{checkpoint.path} holds an adapter ({num_factors} tensors) and no network"
        raise InputError(found, "a network", "give this path as `lora` and the network's as `path`")
    if num_factors and checkpoint.is_release and checkpoint.adapter is None:
        found = f"{checkpoint.path} was trained with an adapter ({num_factors} tensors in model/) but has no lora/"
        raise InputError(found, "model/ and lora/", f"fetch lora/, or give {checkpoint.folder} for the base without it")


def _model_type(names: Mapping[str, object], layout: Layout) -> ModelType | None:
    """Modalities of a file's network, judged by its heads; None if it has no head."""
    has_video, has_audio = (name_in(layout, head) in names for head in ("head.head.weight", "audio_head.head.weight"))
    if has_video:
        return ModelType.T2AV if has_audio else ModelType.T2V
    return ModelType.T2A if has_audio else None


def read_header(path: Path) -> tuple[Shapes, Mapping[str, str]]:
    """Shapes by name, and our metadata (empty for files of other programs). Raises InputError for an unreadable file."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}, metadata
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "a safetensors file", "check the path") from error


def check_metadata(path: Path | str, metadata: Mapping[str, str], config: NetworkConfig) -> None:
    """Compare the metadata of a file with ``config``. Files of other programs have no metadata and pass.

    Raises InputError for another configuration, SchemaVersionError for another schema version.
    """
    schema = metadata.get("avpref_schema", str(SCHEMA_VERSION))
    if schema != str(SCHEMA_VERSION):
        raise SchemaVersionError(f"{path} has schema {schema}", f"schema {SCHEMA_VERSION}", "train the network again")
    saved = metadata.get("config", config.to_json())
    if saved != config.to_json():
        expected, stored = ({**ADDED_DEFAULTS, **json.loads(text)} for text in (config.to_json(), saved))
        changed = [name for name in sorted({*expected, *stored}) if expected.get(name) != stored.get(name)]
        raise InputError(
            f"{path} was saved with " + ", ".join(f"{name}={stored.get(name)}" for name in changed),
            ", ".join(f"{name}={expected.get(name)}" for name in changed),
            "give the section `network` of the configuration the saved values",
        )


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
