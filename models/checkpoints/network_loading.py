"""Save and load networks: our own files and files of other programs; every tensor is checked before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import Checkpoint, find_checkpoint, read_tensors, write_tensors
from avpref.models.checkpoints.lora_files import Factors, read_lora
from avpref.models.checkpoints.strict_reading import (
    CHECK_CONFIGURATION,
    METADATA_KEY,
    check_metadata,
    read_exactly,
    read_header,
    shapes_of,
)
from avpref.models.checkpoints.weight_layouts import SHOWN, is_audio
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.initialisation import with_audio_started
from avpref.models.synchronisers.synchroniser import is_added
from avpref.storage.weight_files import require_shapes


def save_network(path: Path | str, network: JavisDiT, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state dict and, as metadata, schema version, configuration, model type and ``metadata``.

    The file is written atomically, and equal networks give equal bytes: all metadata is one key, because safetensors writes
    several in no fixed order. Raises StorageError if it cannot be written.
    """
    write_tensors(Path(path), network.state_dict(), own_metadata(network, metadata))


def own_metadata(network: JavisDiT, metadata: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Metadata of our safetensors files, which :func:`load_generator` and :func:`load_network` check."""
    own = {
        "avpref_schema": str(SCHEMA_VERSION),
        "config": network.config.to_json(),
        "model_type": str(network.model_type),
    }
    return {METADATA_KEY: json.dumps({**(metadata or {}), **own}, sort_keys=True)}


def load_network(
    path: Path | str, config: NetworkConfig, model_type: ModelType, device: torch.device | str = "cpu"
) -> JavisDiT:
    """Load a network saved by :func:`save_network`, in the file's dtype, on ``device``.

    Raises InputError for a file that is absent or unreadable, was saved with another configuration, or has missing, surplus or
    misshapen tensors; SchemaVersionError for a file of another schema version.
    """
    shapes, metadata = read_header(Path(path))
    check_metadata(path, metadata, config)
    network = _on_meta(config, model_type)
    require_shapes(path, shapes, shapes_of(network.state_dict()), CHECK_CONFIGURATION)
    network.load_state_dict(load_file(path, device=str(device)), assign=True)
    return network


def load_generator(
    path: Path,
    config: NetworkConfig,
    model_type: ModelType,
    *,
    lora: Path | None = None,
    audio_from: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> JavisDiT:
    """Load the network at ``path``: original or diffusers names (detected), in one file, in shards or in a release folder.

    Args:
        path: as for :func:`avpref.models.checkpoints.checkpoint_files.find_checkpoint`. For a JavisDiT-v1.0 folder the
            adapter in ``lora/`` is folded in; give its ``model/`` for the base alone.
        lora: another adapter to fold in, in float32 before weights are rounded to ``dtype``; see
            :mod:`avpref.models.checkpoints.lora_files`.
        audio_from: stage-1 audio weights that complete a video-only ``path``. Its frozen tensors must equal the video network's up
            to bfloat16 rounding; the video network's are used.
        dtype: dtype of all weights; None keeps that of the files.

    Loading is strict: all tensors must be present in their shapes, and no others, except LoRA factors among the base weights and
    :data:`avpref.models.checkpoints.strict_reading.IGNORED`. On the CPU, unchanged weights stay memory-mapped.
    Raises InputError naming missing, unexpected or misshapen tensors, and for unreadable or truncated files, a different
    configuration, mixed dtypes with ``dtype`` None, and adapters of another rank or base; SchemaVersionError as
    :func:`load_network`.
    """
    checkpoint, network = find_checkpoint(path), _on_meta(config, model_type)
    tensors = read_exactly(checkpoint, network) if audio_from is None else _joined(checkpoint, audio_from, network)
    adapter = lora or checkpoint.adapter
    factors: Mapping[str, Factors] = {}
    if adapter is not None:
        loaded = read_lora(adapter)
        loaded.require_fit(network)
        factors = loaded.factors
    return _assign(network, tensors, factors, device, dtype or _only_dtype(path, tensors))


def with_audio_from_video(
    path: Path,
    config: NetworkConfig,
    model_type: ModelType,
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> JavisDiT:
    """Load a video-only network and start an audio branch from it, as in the paper's stage 1; audio-only or joint.

    See :func:`avpref.models.initialisation.with_audio_started`. Raises InputError as :func:`load_generator`.
    """
    assert model_type.has_audio, "a video-only network has no audio branch"
    network = _on_meta(config, model_type)
    video = read_exactly(_without_adapter(path), _on_meta(config, ModelType.T2V))
    dtype = dtype or _only_dtype(path, video)
    return _assign(network, with_audio_started(network, video, generator), {}, device, dtype)


def is_video_only(path: Path) -> bool:
    """Whether the network at ``path`` has no audio branch. Raises InputError as :func:`load_generator`."""
    return not any(is_audio(name) for name in read_tensors(find_checkpoint(path)))


def has_synchroniser(path: Path) -> bool:
    """Whether the network at ``path`` has an added synchroniser. Raises InputError as :func:`load_generator`."""
    return any(is_added(name) for name in read_tensors(find_checkpoint(path)))


def _on_meta(config: NetworkConfig, model_type: ModelType) -> JavisDiT:
    with torch.device("meta"):
        return JavisDiT(config, model_type)


def _without_adapter(path: Path) -> Checkpoint:
    checkpoint = find_checkpoint(path)
    if checkpoint.adapter is not None:
        found = f"{path} has an adapter, {checkpoint.adapter.name}/, which cannot be used here"
        raise InputError(found, "a network's weights alone", f"give {checkpoint.folder}")
    return checkpoint


def _joined(checkpoint: Checkpoint, audio_from: Path, network: JavisDiT) -> dict[str, Tensor]:
    """State dict at the start of the paper's stage 2: a video network and the audio branch that was trained on it."""
    assert network.model_type is ModelType.T2AV, "audio_from completes a joint network"
    video = read_exactly(checkpoint, _on_meta(network.config, ModelType.T2V))
    audio = read_exactly(_without_adapter(audio_from), _on_meta(network.config, ModelType.T2A))
    shared = [name for name in audio if not is_audio(name)]
    changed = [name for name in shared if not _is_close(audio[name], video[name])]
    if changed:
        found = f"{audio_from}: {len(changed)} of {len(shared)} frozen tensors differ ({', '.join(changed[:SHOWN])})"
        raise InputError(
            found, f"those of {checkpoint.path}", "give the audio weights that were trained on this network"
        )
    return {name: audio[name] if is_audio(name) else video[name] for name in network.state_dict()}


def _is_close(first: Tensor, second: Tensor) -> bool:
    """Equality up to the rounding of bfloat16 and of subnormal float16 numbers."""
    return torch.allclose(first.float(), second.float(), rtol=2**-8, atol=2**-24)


def _only_dtype(path: Path, tensors: Mapping[str, Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1:
        found = f"{path} mixes {', '.join(sorted(str(dtype) for dtype in dtypes))}"
        raise InputError(found, "one dtype", "choose one for all weights: dtype=torch.bfloat16 or torch.float32")
    return dtypes.pop()


def _assign(
    network: JavisDiT,
    tensors: dict[str, Tensor],
    factors: Mapping[str, Factors],
    device: torch.device | str,
    dtype: torch.dtype,
) -> JavisDiT:
    """Move ``tensors`` into ``network`` one by one, with the update of ``factors``. Empties ``tensors`` to limit memory."""
    moved = {}
    for name in list(tensors):
        tensor = tensors.pop(name).to(device)
        adapter = factors.get(name.removesuffix(".weight"))
        moved[name] = (tensor if adapter is None else adapter.merged(tensor)).to(dtype)
    network.load_state_dict(moved, assign=True)
    return network
