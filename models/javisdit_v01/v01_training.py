"""Parts of the SFT of JavisDiT v0.1 beside the network: where its stages start, and the priors that every step draws anew.

After the released training: stage 1 trains the audio stream alone, in a network without video that starts from Open-Sora's video
stream; stage 3 trains the injection of priors and the bridges. Stage 2 trains the prior estimator (docs/synchrony-prior.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import find_checkpoint, read_tensors
from avpref.models.dual_stream.dual_inputs import TextLayout
from avpref.models.dual_stream.dual_network import DualStreamNetwork
from avpref.models.dual_stream.dual_stages import DualStage, freeze_for

AUDIO_OF_VIDEO = {
    "audio_spatial_blocks": "spatial_blocks",
    "audio_temporal_blocks": "temporal_blocks",
    "audio_y_embedder": "y_embedder",
}
"""Modules of the audio stream that start with the values of a module of the video stream."""
VIDEO_MODULES = (
    *("rope", "x_embedder", "t_embedder", "fps_embedder", "t_block", "y_embedder"),
    *("spatial_blocks", "temporal_blocks", "final_layer"),
)
"""Modules of a video network (Open-Sora's STDiT3), which has the same names."""
AUDIO_MARK = "audio_final_layer."
FIX = "give the folder of an Open-Sora STDiT3 network, or of a JavisDiT v0.1 network, of the sizes in base.settings.network"


def is_video_network(path: Path) -> bool:
    """Whether the file or folder ``path`` holds a network without an audio stream. Raises InputError for unreadable files."""
    return not any(name.startswith(AUDIO_MARK) for name in read_tensors(find_checkpoint(path)))


def start_from_video(network: DualStreamNetwork, path: Path) -> None:
    """Give ``network`` the video stream of the network at ``path``, and its audio stream the values of that; the rest stays as it is.

    Raises InputError naming tensors of the video stream that are missing, surplus or of another shape.
    """
    own = network.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own.items() if name.split(".")[0] in VIDEO_MODULES}
    tensors = read_tensors(find_checkpoint(path))
    _require_video(path, tensors, expected)
    with torch.no_grad():
        for name in expected:
            if name in tensors:
                own[name].copy_(tensors[name])
    copy_to_audio(network)


@torch.no_grad()
def copy_to_audio(network: DualStreamNetwork) -> None:
    """Start the audio stream from the video stream: blocks and embedder of texts; patches and the last layer are its own."""
    for audio, video in AUDIO_OF_VIDEO.items():
        network.get_submodule(audio).load_state_dict(network.get_submodule(video).state_dict())


def audio_network(network: DualStreamNetwork) -> DualStreamNetwork:
    """A network without video with the values of ``network``, of which only the parameters of stage 1 require gradients."""
    values = network.state_dict()
    with torch.device("meta"):
        alone = DualStreamNetwork(replace(network.config, has_video=False))
    alone.load_state_dict({name: values[name].clone() for name in alone.state_dict()}, assign=True)
    freeze_for(alone, DualStage.AUDIO)
    return alone


def freeze_for_joint(network: DualStreamNetwork) -> None:
    """Let only the parameters of stage 3 require gradients."""
    freeze_for(network, DualStage.JOINT)


def redrawn_priors(layout: TextLayout, states: Tensor, seeds: Sequence[int]) -> Tensor:
    """States [n, rows, C] of texts whose prior tokens are drawn anew, each row with a seed of its own."""
    shape = layout.num_priors, layout.prior_channels
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return layout.redrawn(states, torch.stack(noise))


def _require_video(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InputError unless ``tensors`` are exactly those of the video stream; buffers of null texts may be longer or absent."""
    optional = {name for name in expected if name.endswith("y_embedding") or name.startswith("rope.")}
    missing = [name for name in expected if name not in tensors and name not in optional]
    surplus = [name for name in tensors if name not in expected]
    reshaped = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if not missing and not surplus and not reshaped:
        return
    kinds = {"missing": missing, "surplus": surplus, "of another shape": reshaped}
    parts = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in kinds.items() if names]
    raise InputError(f"{path} is no video network of these sizes: {'; '.join(parts)}", f"{len(expected)} tensors", FIX)
