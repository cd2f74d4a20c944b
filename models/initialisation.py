"""Starting values: from a generator, from a video network (stage 1), or from two trained branches (stage 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.blocks import RMSNorm
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig


def create_network(config: NetworkConfig, model_type: ModelType, generator: torch.Generator) -> JavisDiT:
    """A float32 CPU network with values drawn from ``generator`` alone; the global generator is not touched."""
    with torch.device("meta"):
        network = JavisDiT(config, model_type)
    network.to_empty(device="cpu")
    initialise(network, generator)
    return network


@torch.no_grad()
def initialise(network: JavisDiT, generator: torch.Generator) -> None:
    """Overwrite every parameter: Xavier-uniform maps, zero biases, zero output heads, modulation N(0, 1) / sqrt(d).

    Invariant: equal generators give equal networks, whatever the network held before; its first output is exactly 0.
    """
    for name, module in network.named_modules():
        match module:
            case nn.Linear() if name in ("head.head", "audio_head.head"):
                module.weight.zero_()
                module.bias.zero_()
            case nn.Linear() | nn.Conv2d() | nn.Conv3d():
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                assert module.bias is not None, "every map has a bias"
                module.bias.zero_()
            case RMSNorm():
                module.weight.fill_(1)
            case nn.LayerNorm(elementwise_affine=True):
                module.weight.fill_(1)
                module.bias.zero_()
    for name, parameter in network.named_parameters():
        if name.endswith((".modulation", "audio_modulation.param")):
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)


def audio_from_video(network: JavisDiT, video_state: Mapping[str, Tensor]) -> None:
    """Stage-1 start of an audio-only build: shared tensors from a video network, the audio branch copied from its own.

    The audio feed-forward, its modulation and its time projection start as copies of the video ones (rows 3 to 5 of the
    modulation and of the time projection); patch embedding and head keep their values. Raises InputError where
    ``video_state`` (names and shapes of a video build) lacks a tensor.
    """
    assert network.model_type is ModelType.T2A, "the audio branch is started in an audio-only build"
    own = network.state_dict()
    copied = {name: _video_source(name, video_state) for name in own if not name.startswith(_AUDIO_EDGES)}
    network.load_state_dict(own | copied)


def with_audio_started(
    network: JavisDiT, video_state: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """All tensors of an audio-only or joint build (``network`` may be on the meta device) at the start of the paper's stage 1.

    Shared and video tensors are those of ``video_state`` itself, the audio branch is copied from it as in :func:`audio_from_video`. Its
    edges start as the original's do: patches Xavier-uniform with a bias uniform in ±1/√fan-in, a zero head, head modulation
    N(0, 1) / √d, drawn from ``generator`` in this order. Raises InputError where ``video_state`` lacks a tensor.
    """
    own = network.state_dict()
    copied = {name: _video_source(name, video_state) for name in own if not name.startswith(_AUDIO_EDGES)}
    started = {name: tensor.clone() if "audio_" in name else tensor for name, tensor in copied.items()}
    patches = torch.empty(own["audio_patch_embedding.weight"].shape)
    nn.init.xavier_uniform_(patches.flatten(1), generator=generator)
    bound = patches[0].numel() ** -0.5
    bias = torch.empty(len(patches)).uniform_(-bound, bound, generator=generator)
    modulation = torch.empty(own["audio_head.modulation"].shape)
    return started | {
        "audio_patch_embedding.weight": patches,
        "audio_patch_embedding.bias": bias,
        "audio_head.head.weight": torch.zeros(own["audio_head.head.weight"].shape),
        "audio_head.head.bias": torch.zeros(own["audio_head.head.bias"].shape),
        "audio_head.modulation": modulation.normal_(std=modulation.shape[-1] ** -0.5, generator=generator),
    }


_AUDIO_EDGES = ("audio_patch_embedding.", "audio_head.")


def _video_source(name: str, video_state: Mapping[str, Tensor]) -> Tensor:
    """What the tensor ``name`` of an audio-only build starts from."""
    if ".audio_modulation.param" in name:
        return _find(video_state, name.replace("audio_modulation.param", "modulation"))[:, 3:6]
    if name.startswith("audio_time_projection."):
        return _find(video_state, name.removeprefix("audio_")).chunk(2)[1]
    return _find(video_state, name.replace(".audio_ffn.", ".ffn."))


def join_branches(network: JavisDiT, video_state: Mapping[str, Tensor], audio_state: Mapping[str, Tensor]) -> None:
    """Stage-2 start of a joint build: ``audio_*`` tensors from the trained audio build, the others from the video one.

    Raises InputError where one of them lacks a tensor.
    """
    joined = {name: _find(audio_state if "audio_" in name else video_state, name) for name in network.state_dict()}
    network.load_state_dict(joined)


def _find(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise InputError(
            f"no tensor {name} among the {len(state)} given",
            "the state dict of a network of the same configuration",
            "check the path of the weights and the section `network` of the configuration",
        )
    return state[name]
