"""Files of the prior estimator: one safetensors file with the released names, and what it was trained with as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import find_checkpoint, read_tensors, write_tensors
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.storage.weight_files import fit, on_meta

METADATA_KEY = "avpref_prior"
TEXT_TOWER = "text_encoder."
"""Beginning of the names of ImageBind's frozen text tower, which released files may hold and which is not read from them."""
TRAINING_PARTS = (
    "video_embedder.",
    "audio_embedder.",
    "va_spatial_encoder.",
    "va_temporal_encoder.",
    "discriminator.",
)
"""Beginnings of the names of tensors that only training needs."""


def save_prior(path: Path, network: SynchronyPrior, fingerprint: str) -> None:
    """Write the estimator under its released names; the metadata has its ``fingerprint``. Equal networks give equal bytes.

    Raises StorageError.
    """
    document = {"schema": SCHEMA_VERSION, "fingerprint": fingerprint}
    write_tensors(path, network.state_dict(), {METADATA_KEY: json.dumps(document, sort_keys=True)})


def load_prior(path: Path, config: PriorConfig) -> SynchronyPrior:
    """The estimator in the file or folder ``path``, in its dtype, with exactly the tensors that ``config`` asks for.

    Tensors of training are not read where ``config.encode_va`` is false, and ImageBind's text tower is never read. Raises InputError
    naming the tensors that are missing, surplus or of another shape.
    """
    network = on_meta(lambda: SynchronyPrior(config))
    ignored = (TEXT_TOWER,) if config.encode_va else (TEXT_TOWER, *TRAINING_PARTS)
    tensors = read_tensors(find_checkpoint(path))
    _require_width(path, tensors, config)
    fit(network, tensors, path, ignored=ignored)
    return network


def prior_fingerprint(path: Path) -> str:
    """The fingerprint that training wrote into the file; empty for a file of another origin. Raises InputError."""
    try:
        with safe_open(path, framework="pt") as file:
            document: Mapping[str, object] = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "a safetensors file", "check the path") from error
    return str(document.get("fingerprint", ""))


def inference_config(config: PriorConfig) -> PriorConfig:
    """``config`` without the parts that only training needs."""
    return replace(config, encode_va=False)


def _require_width(path: Path, tensors: Mapping[str, Tensor], config: PriorConfig) -> None:
    """Raises InputError where the widths of text states, of the network or of its tokens differ from the configuration's."""
    weight, output = tensors.get("in_proj.weight"), tensors.get("out_proj.weight")
    if weight is None or output is None:
        return
    doubled = 2 if config.apply_sampling else 1
    expected = [config.hidden_size, config.text_emb_dim], [doubled * config.out_dim, config.hidden_size]
    if (list(weight.shape), list(output.shape)) != expected:
        found = (
            f"{path}: a prior of text width {weight.shape[1]}, width {weight.shape[0]} and {output.shape[0]} outputs"
        )
        wanted = f"text width {config.text_emb_dim}, width {config.hidden_size} and {doubled * config.out_dim} outputs"
        raise InputError(found, wanted, "give the sizes in section prior.network or base.settings those of the file")
