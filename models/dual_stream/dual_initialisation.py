"""Initial values of the dual-stream network, as the original starts its training from nothing."""

from __future__ import annotations

import torch
from torch import nn

from avpref.models.dual_stream.dual_network import DualStreamNetwork

ZERO = {
    "temporal_blocks": ("attn.proj", "cross_attn.proj", "mlp.fc2"),
    "audio_temporal_blocks": ("attn.proj", "cross_attn.proj", "mlp.fc2"),
    "video_st_prior_blocks": ("spatial_cross_attn.proj", "temporal_cross_attn.proj", "mlp.fc2"),
    "audio_st_prior_blocks": ("spatial_cross_attn.proj", "temporal_cross_attn.proj", "mlp.fc2"),
}
"""Layers of the blocks that start at zero, so that the blocks first change nothing by them."""
VIDEO = ("x_embedder", "t_embedder", "fps_embedder", "t_block", "y_embedder", "spatial_blocks", "temporal_blocks")
"""Modules whose linear maps start Xavier-uniform with zero biases; all others have torch's defaults."""


@torch.no_grad()
def initialise_dual(network: DualStreamNetwork) -> None:
    """Overwrite the values that differ from torch's defaults, with torch's global generator."""
    for name in (*VIDEO, "final_layer"):
        for module in network.get_submodule(name).modules() if hasattr(network, name) else ():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
    for name, layers in ZERO.items():
        for block in getattr(network, name, ()):
            for layer in layers:
                nn.init.zeros_(block.get_parameter(f"{layer}.weight"))
