"""The parameters that each released training stage of JavisDiT v0.1 trains; all others are frozen."""

from __future__ import annotations

from enum import StrEnum

from torch import nn

from avpref.models.dual_stream.dual_network import DualStreamNetwork


class DualStage(StrEnum):
    """Stage 1 trains the audio stream, stage 3 the priors' injection and the bridges. Stage 2 trains the prior estimator alone."""

    AUDIO = "audio"
    JOINT = "joint"


TRAINED = {
    DualStage.AUDIO: (
        "ax_embedder",
        "audio_spatial_blocks",
        "audio_temporal_blocks",
        "audio_y_embedder",
        "audio_final_layer",
    ),
    DualStage.JOINT: (
        "st_t_block",
        "st_prior_embedder",
        "video_st_prior_blocks",
        "audio_st_prior_blocks",
        "va_cross_blocks",
    ),
}
"""Names of modules that a stage trains."""


def freeze_for(network: DualStreamNetwork, stage: DualStage) -> list[nn.Parameter]:
    """Let only the parameters of ``stage`` require gradients; returns them. Raises ValueError where the network lacks a module."""
    modules = dict(network.named_children())
    missing = [name for name in TRAINED[stage] if name not in modules]
    if missing:
        raise ValueError(f"stage {stage} trains {', '.join(missing)}, which a network without video does not have")
    network.requires_grad_(False)
    trained = [parameter for name in TRAINED[stage] for parameter in modules[name].parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained
