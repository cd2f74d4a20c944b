"""OpenAI's CLIP through transformers' class: pictures and texts → unit vectors of one space.

Weights load in the layout of the Hugging Face hub or in that of OpenAI's own files, whose names :func:`hub_names` translates.
Source: Radford et al. 2021.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from avpref.errors import InputError

ORIGINAL_MARK = "visual.conv1.weight"
NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Numbers that OpenAI's files hold beside the tensors."""
RESBLOCK = re.compile(r"^(visual\.)?transformer\.resblocks\.(\d+)\.(.+)$")
PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


class ClipNetwork:
    """CLIP in evaluation mode on one device."""

    def __init__(self, model: CLIPModel, device: str = "cpu") -> None:
        module: Any = model.eval()  # transformers wraps the method "to" in a way that loses its type
        self._model = module.to(torch.device(device))

    @torch.no_grad()
    def picture_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] → unit vectors [B, D]."""
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return functional.normalize(self._model.visual_projection(pooled), dim=-1)

    @torch.no_grad()
    def text_features(self, ids: Tensor) -> Tensor:
        """Token ids int64 [B, 77] with the end id in every row → unit vectors [B, D]."""
        pooled = self._model.text_model(input_ids=ids).pooler_output
        return functional.normalize(self._model.text_projection(pooled), dim=-1)


def vit_b_32_config() -> CLIPConfig:
    """Sizes of CLIP ViT-B/32."""
    return CLIPConfig(
        text_config={"hidden_act": "quick_gelu"}, vision_config={"hidden_act": "quick_gelu"}, projection_dim=512
    )


def tiny_clip_config() -> CLIPConfig:
    """Sizes of a small network for tests and dry runs; pictures and texts are those of the full one."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    part = {**sizes, "projection_dim": 24, "hidden_act": "quick_gelu"}
    return CLIPConfig(text_config=part, vision_config=part, projection_dim=24)


def load_clip(config: CLIPConfig, tensors: Mapping[str, Tensor], device: str = "cpu") -> ClipNetwork:
    """CLIP with ``tensors`` in either layout, on ``device``. Raises InputError for a missing, unknown or misshapen tensor."""
    named = hub_names(tensors) if ORIGINAL_MARK in tensors else dict(tensors)
    with torch.random.fork_rng(devices=[]):
        model = CLIPModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if "position_ids" not in name}
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items() if "position_ids" not in name}
    wrong = [name for name in sorted(expected | shapes) if expected.get(name) != shapes.get(name)]
    if wrong:
        first = wrong[0]
        found = f"{len(wrong)} tensors differ from CLIP's, first {first}: {shapes.get(first, 'absent')}"
        raise InputError(found, f"{expected.get(first, 'no such tensor')}", "fetch the weights again")
    model.load_state_dict({name: named[name].float() for name in shapes}, strict=False)
    return ClipNetwork(model, device)


def hub_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of OpenAI's layout under the names of the hub's. Raises InputError for a name that is none of CLIP's."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in NOT_WEIGHTS:
            continue
        if name in TRANSPOSED:
            renamed[TRANSPOSED[name]] = tensor.T.contiguous()
        elif name in NAMES:
            renamed[NAMES[name]] = tensor
        elif block := RESBLOCK.match(name):
            renamed |= _block_tensors(block, tensor)
        else:
            raise InputError(f"tensor {name}", "the tensors of OpenAI's CLIP", "fetch the weights again")
    return renamed


def _block_tensors(block: re.Match[str], tensor: Tensor) -> dict[str, Tensor]:
    tower = "vision_model" if block[1] else "text_model"
    layer, part = f"{tower}.encoder.layers.{block[2]}", block[3]
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        names = (f"{layer}.self_attn.{head}_proj.{kind}" for head in "qkv")
        return dict(zip(names, tensor.chunk(3), strict=True))
    stem, _, kind = part.rpartition(".")
    return {f"{layer}.{PARTS[stem]}.{kind}": tensor}
