"""Initial weights: random, or an audio branch that starts from a video network (the paper's stage 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.blocks import RMSNorm
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.synchronisers.starting import added_modules, initialise_added
from avpref.models.synchronisers.synchroniser import is_added


def create_network(config: NetworkConfig, model_type: ModelType, generator: torch.Generator) -> JavisDiT:
    """A float32 CPU network whose values depend only on ``generator``; the global random state does not change."""
    with torch.device("meta"):
        network = JavisDiT(config, model_type)
    network.to_empty(device="cpu")
    initialise(network, generator)
    return network


@torch.no_grad()
def initialise(network: JavisDiT, generator: torch.Generator) -> None:
    """Overwrite every parameter: Xavier-uniform maps, zero biases, zero output heads, modulation N(0, 1) / sqrt(d).

    Layers of an added synchroniser come last (:func:`avpref.models.synchronisers.starting.initialise_added`). Invariants: equal
    generators give equal networks, whatever the previous values, and equal values of all other tensors whatever the synchroniser;
    the output of the result is exactly 0.
    """
    for name, module in network.named_modules():
        if is_added(name):
            continue
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
    initialise_added(network, generator)


def with_synchroniser(network: JavisDiT, config: NetworkConfig, generator: torch.Generator) -> JavisDiT:
    """A network of ``config`` with the values of ``network``, on the CPU, that computes the same function.

    ``network`` has no added layers; those of the result are new, in the dtype of ``network``, and start from ``generator``.
    """
    with torch.device("meta"):
        started = JavisDiT(config, network.model_type)
    for _, module in added_modules(started):
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(torch.empty(parameter.shape)))
    initialise_added(started, generator)
    own = {name: value for name, value in started.state_dict().items() if is_added(name)}
    dtype = next(network.parameters()).dtype
    state = network.state_dict() | {name: value.to(dtype) for name, value in own.items()}
    started.load_state_dict(state, assign=True)
    return started


def with_audio_started(
    network: JavisDiT, video_state: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """State dict of an audio-only or joint network (``network`` may be on the meta device) at the start of the paper's stage 1.

    Shared and video tensors are those of ``video_state`` (names and shapes of a video network), not copied. The audio feed-forward,
    its modulation and its time projection are copies of the video ones (rows 3 to 5 of the modulation and of the time projection).
    Patch embedding and head start as in the original: Xavier-uniform patches with a bias uniform in ±1/√fan-in, a zero head, head
    modulation N(0, 1) / √d, drawn from ``generator`` in this order. Raises InputError if ``video_state`` lacks a tensor.
    """
    shapes = network.state_dict()
    copied = {name: _video_source(name, video_state) for name in shapes if not name.startswith(_NEW_TENSORS)}
    started = {name: tensor.clone() if "audio_" in name else tensor for name, tensor in copied.items()}
    patches = torch.empty(shapes["audio_patch_embedding.weight"].shape)
    nn.init.xavier_uniform_(patches.flatten(1), generator=generator)
    bound = patches[0].numel() ** -0.5
    bias = torch.empty(len(patches)).uniform_(-bound, bound, generator=generator)
    modulation = torch.empty(shapes["audio_head.modulation"].shape)
    return started | {
        "audio_patch_embedding.weight": patches,
        "audio_patch_embedding.bias": bias,
        "audio_head.head.weight": torch.zeros(shapes["audio_head.head.weight"].shape),
        "audio_head.head.bias": torch.zeros(shapes["audio_head.head.bias"].shape),
        "audio_head.modulation": modulation.normal_(std=modulation.shape[-1] ** -0.5, generator=generator),
    }


_NEW_TENSORS = ("audio_patch_embedding.", "audio_head.")


def _video_source(name: str, video_state: Mapping[str, Tensor]) -> Tensor:
    """The initial value of the tensor ``name`` of an audio-only or joint network."""
    if ".audio_modulation.param" in name:
        return _tensor(video_state, name.replace("audio_modulation.param", "modulation"))[:, 3:6]
    if name.startswith("audio_time_projection."):
        return _tensor(video_state, name.removeprefix("audio_")).chunk(2)[1]
    return _tensor(video_state, name.replace(".audio_ffn.", ".ffn."))


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise InputError(
            f"no tensor {name} among the {len(state)} of the video network",
            "the state dict of a network of the same configuration",
            "check the path of the weights and the section `network` of the configuration",
        )
    return state[name]
