"""The audio branch of JavisDiT++ alone, for the paper's stage 1."""

from __future__ import annotations

import torch

from avpref.models.dit import JavisDiT, ModelType


def audio_only_network(network: JavisDiT) -> JavisDiT:
    """An audio-only network with the values of ``network``, in which only the audio tensors require gradients.

    These are patch embedding, head, time projection, and every block's audio feed-forward and its modulation.
    """
    with torch.device("meta"):
        audio_network = JavisDiT(network.config, ModelType.T2A)
    values = network.state_dict()
    copies = {name: values[name].detach().clone() for name in audio_network.state_dict()}
    audio_network.load_state_dict(copies, assign=True)
    for name, parameter in audio_network.named_parameters():
        parameter.requires_grad_(is_audio_tensor(name))
    return audio_network


def is_audio_tensor(name: str) -> bool:
    """Whether a tensor belongs to the audio branch: some part of its dotted name starts with ``audio_``."""
    return any(part.startswith("audio_") for part in name.split("."))
