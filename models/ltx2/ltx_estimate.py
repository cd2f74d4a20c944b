"""Operations and memory of LTX-2, from the shapes of its layers: for dry runs, without weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from avpref.models.ltx2.ltx_lora import TARGETS
from avpref.models.ltx2.ltx_network import LtxNetwork

OPERATIONS = 2
"""Of one multiplication and addition."""


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one clip: video, audio, and the states of its text."""

    video: int
    audio: int
    text: int

    def of_linear(self, name: str) -> int:
        """Tokens that pass through the layer ``name`` of a block, such as ``attn2.to_k``."""
        module, _, layer = name.partition(".")
        is_source = layer.split(".")[0] in ("to_k", "to_v")
        match module:
            case "attn2" | "audio_attn2" if is_source:
                return self.text
            case "audio_to_video_attn":
                return self.audio if is_source else self.video
            case "video_to_audio_attn":
                return self.video if is_source else self.audio
            case _ if module.startswith("audio_"):
                return self.audio
            case _:
                return self.video

    def of_attention(self, name: str) -> int:
        """Products of queries and keys in the attention ``name`` of a block."""
        queries, keys = self.of_linear(f"{name}.to_q"), self.of_linear(f"{name}.to_k")
        return queries * keys


def forward_operations(network: LtxNetwork, tokens: TokenCounts) -> float:
    """Floating point operations of one forward pass of one row: the linear layers and attention products of all blocks."""
    linears = {name: module for name, module in network.blocks[0].named_modules() if isinstance(module, nn.Linear)}
    total = sum(tokens.of_linear(name) * module.weight.numel() for name, module in linears.items())
    return float(OPERATIONS * len(network.blocks) * total) + attention_operations(network, tokens)


def attention_operations(network: LtxNetwork, tokens: TokenCounts) -> float:
    """The share of :func:`forward_operations` of the products of queries, keys and values."""
    linears = {name: module for name, module in network.blocks[0].named_modules() if isinstance(module, nn.Linear)}
    total = sum(
        2 * tokens.of_attention(name.removesuffix(".to_q")) * module.out_features
        for name, module in linears.items()
        if name.endswith(".to_q")
    )
    return float(OPERATIONS * len(network.blocks) * total)


def parameter_count(network: nn.Module) -> int:
    """Values of all parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def adapter_count(network: LtxNetwork, rank: int) -> int:
    """Values of an adapter of ``rank`` on :data:`avpref.models.ltx2.ltx_lora.TARGETS` of every block."""
    linears = dict(network.blocks[0].named_modules())
    sizes = (linears[name] for name in TARGETS)
    widths = sum(layer.in_features + layer.out_features for layer in sizes if isinstance(layer, nn.Linear))
    return rank * widths * len(network.blocks)
