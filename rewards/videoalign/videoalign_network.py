"""VideoAlign's network: the vision and language models of Qwen2-VL, and a reward head that is read at three tokens of the rubric.

The vision and language models are those of ``transformers``. The language model gets positions 0 .. L-1 on all three of its
rotary axes, as in training, not the video positions that Qwen2-VL itself would use.

The published file is the state dict of an adapted model, unmerged: base weights, and for each linear layer of the language model
two LoRA factors. They are merged here in float32, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpref.errors import InputError
from avpref.rewards.random_weights import fill
from avpref.storage.weight_files import fit, on_meta, require_shapes

UNUSED = ("base_model.model.lm_head.",)
"""Prefixes of the tensors of the published file that scores do not depend on."""


@dataclass(frozen=True)
class VideoAlignSizes:
    """Sizes of the network; the defaults are the published ones (Qwen2-VL-2B with three more tokens).

    ``rope_sections`` divides half the channels of a head among the three rotary axes; here all three have the same positions.
    """

    vocab_size: int = 151_660
    dim: int = 1536
    mlp_dim: int = 8960
    num_layers: int = 28
    num_heads: int = 12
    num_key_heads: int = 2
    max_positions: int = 32_768
    rope_theta: float = 1e6
    rope_sections: tuple[int, int, int] = (16, 24, 24)
    norm_eps: float = 1e-6
    vision_dim: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    vision_mlp_ratio: int = 4


@dataclass(frozen=True)
class Adapter:
    """Rank and alpha of the LoRA factors that the published file has for each linear layer of the language model."""

    rank: int = 64
    alpha: float = 128.0

    @property
    def scaling(self) -> float:
        """Scale of the product of the factors: alpha / rank."""
        return self.alpha / self.rank


FULL = VideoAlignSizes()
TINY = VideoAlignSizes(
    vocab_size=264,
    dim=32,
    mlp_dim=48,
    num_layers=1,
    num_heads=2,
    num_key_heads=1,
    rope_sections=(2, 3, 3),
    vision_dim=32,
    vision_layers=1,
    vision_heads=2,
    vision_mlp_ratio=2,
)


class VideoAlignNetwork(nn.Module):
    """Patches and token ids to three rewards per clip."""

    def __init__(self, sizes: VideoAlignSizes, video_id: int) -> None:
        """``video_id`` is the id of the placeholder tokens that the visual embeddings replace."""
        super().__init__()
        from transformers.models.qwen2_vl.modeling_qwen2_vl import (
            Qwen2VisionTransformerPretrainedModel,
            Qwen2VLTextModel,
        )

        vision, text = _configurations(sizes)
        self.sizes, self.video_id = sizes, video_id
        self.visual = Qwen2VisionTransformerPretrainedModel(vision)
        self.language_model = Qwen2VLTextModel(text)
        self.rm_head = nn.Linear(sizes.dim, 1, bias=False)

    def embed_patches(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Embeddings [P/4, D] of the patches [P, 1176] of all clips, concatenated.

        ``grids`` [B, 3] are the numbers of frame pairs, patch rows and patch columns of each clip.
        """
        return self.visual(patches.to(self.rm_head.weight.dtype), grid_thw=grids).pooler_output

    def states(self, patches: Tensor, grids: Tensor, token_ids: Tensor) -> Tensor:
        """Last hidden states [B, L, D] for token ids [B, L], padded on the right with any ids that are not special tokens.

        Attention is causal, so padding does not change the states before it.
        """
        embeddings = self.language_model.embed_tokens(token_ids)
        visual = self.embed_patches(patches, grids)
        is_video = token_ids == self.video_id
        assert int(is_video.sum()) == len(visual), (
            f"{int(is_video.sum())} placeholders, {len(visual)} visual embeddings"
        )
        embeddings = embeddings.masked_scatter(is_video[..., None], visual)
        positions = torch.arange(token_ids.shape[1], device=token_ids.device).expand(3, *token_ids.shape)
        output = self.language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False)
        return output.last_hidden_state

    def forward(self, patches: Tensor, grids: Tensor, token_ids: Tensor, reward_positions: Tensor) -> Tensor:
        """Rewards [B, 3] float32, read at ``reward_positions`` [B, 3]: visual quality, motion quality, text alignment.

        The head is applied in float32, so that a low precision of the network does not round scores into ties.
        """
        states = self.states(patches, grids, token_ids)
        at_rewards = states.gather(1, reward_positions[..., None].expand(-1, -1, states.shape[-1]))
        return functional.linear(at_rewards.float(), self.rm_head.weight.float())[..., 0]


def _configurations(sizes: VideoAlignSizes):
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

    vision = Qwen2VLVisionConfig(
        depth=sizes.vision_layers,
        embed_dim=sizes.vision_dim,
        hidden_size=sizes.dim,
        mlp_ratio=sizes.vision_mlp_ratio,
        num_heads=sizes.vision_heads,
    )
    text = Qwen2VLTextConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.dim,
        intermediate_size=sizes.mlp_dim,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_key_heads,
        max_position_embeddings=sizes.max_positions,
        rms_norm_eps=sizes.norm_eps,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": sizes.rope_theta,
            "mrope_section": list(sizes.rope_sections),
        },
    )
    for configuration in (vision, text):
        configuration._attn_implementation = "sdpa"
    return vision, text


def network_without_memory(sizes: VideoAlignSizes, video_id: int) -> VideoAlignNetwork:
    """A network on the meta device, except for its rotary frequencies, which the published file does not contain."""
    network = on_meta(lambda: VideoAlignNetwork(sizes, video_id))
    for part, name in ((network.visual, "rotary_pos_emb"), (network.language_model, "rotary_emb")):
        setattr(part, name, type(getattr(part, name))(part.config))
    return network


def published_shapes(network: VideoAlignNetwork, adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of the published state dict that a network of these sizes uses."""
    return {name: shape for parts in _published(network, adapter) for name, shape in parts.shapes.items()}


def load_network(
    tensors: Mapping[str, Tensor],
    source: Path | str,
    sizes: VideoAlignSizes,
    video_id: int,
    adapter: Adapter,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoAlignNetwork:
    """The network with the published ``tensors``, merged. Raises InputError for missing, unexpected or misshapen tensors."""
    network = network_without_memory(sizes, video_id)
    non_tensors = [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if non_tensors:
        raise InputError(f"{source} holds {non_tensors[0]}, which is no tensor", "a state dict", "check the path")
    used = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
    require_shapes(
        source, {name: tuple(tensor.shape) for name, tensor in used.items()}, published_shapes(network, adapter)
    )
    merged = {
        parts.name: parts.merged(used, adapter.scaling, torch.device(device)).to(dtype)
        for parts in _published(network, adapter)
    }
    fit(network, merged, source, device=device, dtype=dtype)
    return network.to(device)


def random_network(sizes: VideoAlignSizes, video_id: int, device: str, dtype: torch.dtype) -> VideoAlignNetwork:
    """A network with random weights that depend on their names alone."""
    network = network_without_memory(sizes, video_id)
    fill(network)
    fit(network, network.state_dict(), "random weights", device=device, dtype=dtype)
    return network.to(device)


@dataclass(frozen=True)
class _PublishedTensors:
    """The tensors of the published file for tensor ``name`` of the network, with shapes: itself, or a base and two LoRA factors."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]

    def merged(self, tensors: Mapping[str, Tensor], scaling: float, device: torch.device) -> Tensor:
        """base + scaling · B @ A in float32 if there are factors, else the tensor itself."""
        base, *factors = (tensors[name].to(device) for name in self.shapes)
        if not factors:
            return base
        down, up = (factor.float() for factor in factors)
        return torch.addmm(base.float(), up, down, alpha=scaling)


def _published(network: VideoAlignNetwork, adapter: Adapter) -> Iterator[_PublishedTensors]:
    adapted = {
        f"language_model.{name}" for name, module in network.language_model.named_modules() if type(module) is nn.Linear
    }
    for name, tensor in network.state_dict().items():
        layer, _, last = name.rpartition(".")
        prefix = "base_model.model." + layer.replace("language_model.", "model.", 1)
        shape = tuple(tensor.shape)
        if layer not in adapted:
            yield _PublishedTensors(name, {f"{prefix}.{last}": shape})
        elif last == "bias":
            yield _PublishedTensors(name, {f"{prefix}.base_layer.bias": shape})
        else:
            factors = {
                f"{prefix}.lora_A.default.weight": (adapter.rank, shape[1]),
                f"{prefix}.lora_B.default.weight": (shape[0], adapter.rank),
            }
            yield _PublishedTensors(name, {f"{prefix}.base_layer.weight": shape} | factors)
