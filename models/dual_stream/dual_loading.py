"""Strict loading of JavisDiT v0.1: every tensor of a network under its released name and shape, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import find_checkpoint, read_tensors
from avpref.models.dual_stream.dual_config import DualStreamConfig
from avpref.models.dual_stream.dual_network import DualStreamNetwork
from avpref.models.dual_stream.stream_attention import RotaryEmbedding
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.storage.weight_files import fit, on_meta, require_shapes

ROPE = "rope.freqs"
ROPE_TOLERANCE = 4e-3
"""Relative difference of the rotation's frequencies that rounding to bfloat16 explains."""
FIX = "give the folder of a JavisDiT v0.1 network whose sizes are those of the configuration"
OF_TRAINING = (
    *("video_embedder.", "audio_embedder.", "va_spatial_encoder.", "va_temporal_encoder.", "discriminator."),
    "text_encoder.",
)
"""Prefixes of tensors in files of prior estimators that sampling does not use: networks of the losses, and ImageBind's text tower."""


def read_dual_stream(path: Path, config: DualStreamConfig) -> DualStreamNetwork:
    """The network in the files at ``path``, in their dtype; see :func:`load_dual_stream`. Raises InputError for unreadable files."""
    return load_dual_stream(read_tensors(find_checkpoint(path)), config, path)


def load_dual_stream(tensors: Mapping[str, Tensor], config: DualStreamConfig, source: object) -> DualStreamNetwork:
    """A network with exactly ``tensors``, which it takes over without a copy.

    Raises InputError, naming ``source`` and the differences, for missing, surplus and misshapen tensors, and for frequencies of the
    rotation that are not those of the network.
    """
    with torch.device("meta"):
        network = DualStreamNetwork(config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    require_shapes(
        f"{source} (a dual-stream network)", {name: tuple(t.shape) for name, t in tensors.items()}, expected, FIX
    )
    _require_frequencies(tensors[ROPE], config, source)
    network.load_state_dict({name: tensors[name] for name in expected}, assign=True)
    network.rope.requires_grad_(False)
    return network


def read_prior(path: Path, config: PriorConfig, device: torch.device | str = "cpu") -> SynchronyPrior:
    """The prior estimator in the files at ``path``, float32, in evaluation mode; tensors of :data:`OF_TRAINING` may be there.

    Raises InputError for unreadable files, and for missing, surplus and misshapen tensors.
    """
    network = on_meta(lambda: SynchronyPrior(config))
    ignored = () if config.encode_va else OF_TRAINING
    tensors = read_tensors(find_checkpoint(path))
    fit(network, tensors, f"{path} (a prior estimator)", ignored=ignored, device=device, dtype=torch.float32)
    return network


def _require_frequencies(frequencies: Tensor, config: DualStreamConfig, source: object) -> None:
    own = RotaryEmbedding(config.head_dim).freqs.to(frequencies.device)
    error = ((frequencies.float() - own).abs() / own).max().item()
    if error > ROPE_TOLERANCE:
        raise InputError(f"{source}: {ROPE} differs by {error:.2g} of its values", "10000^(-2k / head size)", FIX)
