"""ImageBind's networks for picture, sound and text, with the parameter names of the published ``imagebind_huge.pth``.

After Girdhar et al., "ImageBind: One Embedding Space To Bind Them All" (CVPR 2023); sizes as in ``models/imagebind_model.py`` of the
original. Each tower is a pre-norm transformer. The vision tower reads pairs of frames; the audio tower's attention has one
additional learned key and value; the text tower is causal and pooled at the end token. The towers for depth, thermal images and
motion are not implemented.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NamedTuple

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from avpref.models.imagebind.clip_text import CONTEXT, END

NORM_EPS = 1e-6
SIDE = 224
"""Side of an input picture in pixels."""
PAIR = 2
PATCH = 14
NUM_PATCHES = (SIDE // PATCH) ** 2
MEL_BANDS, MEL_FRAMES = 128, 204
SOUND_PATCH, SOUND_STRIDE = 16, 10
NUM_SOUND_PATCHES = ((MEL_BANDS - SOUND_PATCH) // SOUND_STRIDE + 1) * ((MEL_FRAMES - SOUND_PATCH) // SOUND_STRIDE + 1)
MLP_RATIO = 4
TEXT_SCALE, SOUND_SCALE, MAX_SCALE = 1 / 0.07, 20.0, 100.0


class Modality(StrEnum):
    """The towers; the values are their names in the published file."""

    VISION = "vision"
    TEXT = "text"
    AUDIO = "audio"


EVERY_MODALITY = tuple(Modality)
UNBUILT = ("depth", "thermal", "imu")
"""Towers of the published file that are never built."""


@dataclass(frozen=True)
class TowerSizes:
    """A transformer's width, number of blocks and number of heads."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dim: int
    num_blocks: int
    num_heads: int


@dataclass(frozen=True)
class ImageBindSizes:
    """Sizes of the three towers, and the width of the embeddings."""

    vision: TowerSizes
    text: TowerSizes
    audio: TowerSizes
    embed_dim: int


FULL = ImageBindSizes(TowerSizes(1280, 32, 16), TowerSizes(1024, 24, 16), TowerSizes(768, 12, 12), 1024)
TINY = ImageBindSizes(TowerSizes(16, 1, 2), TowerSizes(16, 1, 2), TowerSizes(16, 1, 2), 8)


class Towers(nn.Module):
    """The towers of ``modalities``: inputs of a modality → embeddings [N, E], float32, whose norm is the modality's scale.

    Inputs are cast to the network's floating-point type. Each row of the result depends only on the same row of the input.
    """

    def __init__(self, sizes: ImageBindSizes, modalities: Sequence[Modality] = EVERY_MODALITY) -> None:
        super().__init__()
        parts = {str(modality): _tower_parts(modality, sizes) for modality in modalities}
        self.modality_preprocessors = nn.ModuleDict({name: part.stem for name, part in parts.items()})
        self.modality_trunks = nn.ModuleDict({name: part.trunk for name, part in parts.items()})
        self.modality_heads = nn.ModuleDict({name: part.head for name, part in parts.items()})
        self.modality_postprocessors = nn.ModuleDict({name: part.scaling for name, part in parts.items()})

    def embed_images(self, images: Tensor) -> Tensor:
        """Normalised pairs of frames [N, 3, 2, 224, 224] → [N, E], of norm 1."""
        return self._embed(Modality.VISION, images)

    def embed_sounds(self, sounds: Tensor) -> Tensor:
        """Normalised mel spectrograms of 2 s [N, 1, 128, 204] → [N, E], of norm 20."""
        return self._embed(Modality.AUDIO, sounds)

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Token ids [N, 77] of texts → [N, E], of the learned norm, at most 100. Pooled at the first occurrence of the largest id."""
        name = Modality.TEXT
        states = self.text_states(ids)
        pooled = states[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
        return self._scaled(name, self.modality_heads[name](pooled))

    def text_states(self, ids: Tensor) -> Tensor:
        """States [N, 77, D] of token ids [N, 77] after the last block, before the head and its norm."""
        tokens, mask = self.modality_preprocessors[Modality.TEXT](ids)
        states: Tensor = self.modality_trunks[Modality.TEXT](tokens, mask)
        return states

    def _embed(self, name: Modality, inputs: Tensor) -> Tensor:
        tokens = self.modality_preprocessors[name](inputs)
        return self._scaled(name, self.modality_heads[name](self.modality_trunks[name](tokens)))

    def _scaled(self, name: Modality, embeddings: Tensor) -> Tensor:
        scaled: Tensor = self.modality_postprocessors[name](embeddings.float())
        return scaled


class _TowerParts(NamedTuple):
    stem: nn.Module
    trunk: nn.Module
    head: nn.Module
    scaling: nn.Module


def _tower_parts(modality: Modality, sizes: ImageBindSizes) -> _TowerParts:
    """The four parts of a tower, in the order in which an input passes through them."""
    match modality:
        case Modality.VISION:
            tower = sizes.vision
            stem: nn.Module = PatchStem(ImagePatches(tower.dim), NUM_PATCHES, tower.dim)
            trunk = Trunk(tower, TowerAttention, nn.Sequential(_norm(tower.dim)))
            return _TowerParts(stem, trunk, _first_token_head(tower.dim, sizes.embed_dim), UnitLength())
        case Modality.AUDIO:
            tower = sizes.audio
            stem = PatchStem(SoundPatches(tower.dim), NUM_SOUND_PATCHES, tower.dim)
            trunk = Trunk(tower, AttentionWithExtraKey, nn.Sequential())
            head = _first_token_head(tower.dim, sizes.embed_dim)
            return _TowerParts(stem, trunk, head, nn.Sequential(UnitLength(), LogitScale(SOUND_SCALE)))
        case Modality.TEXT:
            tower = sizes.text
            trunk = Trunk(tower, TowerAttention, nn.Sequential())
            scaling = nn.Sequential(UnitLength(), LogitScale(TEXT_SCALE))
            return _TowerParts(TextStem(tower.dim), trunk, TextHead(tower.dim, sizes.embed_dim), scaling)


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=NORM_EPS)


def _first_token_head(dim: int, embed_dim: int) -> nn.Module:
    return nn.Sequential(_norm(dim), FirstToken(), nn.Linear(dim, embed_dim, bias=False))


class ImagePatches(nn.Module):
    """Pairs of frames [N, 3, 2, 224, 224] → patches of 2 frames by 14 x 14 pixels, [N, 256, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        cell = (PAIR, PATCH, PATCH)
        self.proj = nn.Sequential(nn.Identity(), nn.Conv3d(3, dim, cell, stride=cell, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        patches: Tensor = self.proj(images.to(next(self.parameters()).dtype))
        return patches.flatten(2).transpose(1, 2)


class SoundPatches(nn.Module):
    """Mel spectrograms [N, 1, 128, 204] → overlapping patches of 16 bands by 16 frames with a stride of 10, [N, 228, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, SOUND_PATCH, stride=SOUND_STRIDE, bias=False)
        self.norm_layer = nn.LayerNorm(dim)

    def forward(self, sounds: Tensor) -> Tensor:
        """See the class."""
        patches: Tensor = self.proj(sounds.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)
        return self.norm_layer(patches)


class PatchStem(nn.Module):
    """A learned class token and the patches, with learned positions: [N, 1 + P, D]."""

    def __init__(self, patches: nn.Module, num_patches: int, dim: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.rgbt_stem = patches
        self.pos_embedding_helper = nn.ParameterDict({"pos_embed": torch.zeros(1, 1 + num_patches, dim)})

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        patches = self.rgbt_stem(inputs)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + self.pos_embedding_helper["pos_embed"]


class TextStem(nn.Module):
    """Token ids [N, 77] → tokens [N, 77, D] with learned positions, and the mask [77, 77] that is added to the attention logits.

    The mask is a tensor of the published file, equal to :func:`causal_mask`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(END + 1, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, CONTEXT, dim))
        self.register_buffer("mask", causal_mask())

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        assert isinstance(self.mask, Tensor)
        return self.token_embedding(ids) + self.pos_embed, self.mask


def causal_mask() -> Tensor:
    """Mask [77, 77]: −∞ above the diagonal, else 0."""
    return torch.full((CONTEXT, CONTEXT), -math.inf).triu(1)


class Trunk(nn.Module):
    """A transformer: tokens [N, L, D] → states [N, L, D]. ``first`` is applied before the blocks."""

    def __init__(
        self, sizes: TowerSizes, attention: Callable[[int, int], TowerAttention], first: nn.Sequential
    ) -> None:
        super().__init__()
        self.pre_transformer_layer = first
        blocks = [TowerBlock(sizes.dim, attention(sizes.dim, sizes.num_heads)) for _ in range(sizes.num_blocks)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """See the class. ``mask`` [L, L] is added to the attention's logits."""
        states: Tensor = self.pre_transformer_layer(tokens)
        for block in self.blocks:
            states = block(states, mask)
        return states


class TowerBlock(nn.Module):
    """A pre-norm transformer block: attention, then an MLP of four times the width, each added to its input."""

    def __init__(self, dim: int, attention: TowerAttention) -> None:
        super().__init__()
        self.attn = attention
        self.norm_1, self.norm_2 = _norm(dim), _norm(dim)
        self.mlp = TowerMlp(dim)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """[N, L, D] → [N, L, D]."""
        states = states + self.attn(self.norm_1(states), mask)
        return states + self.mlp(self.norm_2(states))


class TowerMlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        return self.fc2(F.gelu(self.fc1(states)))


class TowerAttention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one matrix."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """[N, L, D] → [N, L, D]; ``mask`` [L, L] is added to the logits."""
        query, key, value = F.linear(states, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        key, value = self.extend(key, value)
        heads = (self._by_head(query), self._by_head(key), self._by_head(value))
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values to attend to [N, L', D], from those of the tokens [N, L, D]: here the same."""
        return key, value

    def _by_head(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class AttentionWithExtraKey(TowerAttention):
    """Self-attention with one additional learned key and value, at the end."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.bias_k = nn.Parameter(torch.zeros(1, 1, dim))
        self.bias_v = nn.Parameter(torch.zeros(1, 1, dim))

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`TowerAttention.extend`; L' = L + 1."""
        extra = (len(key), 1, -1)
        return torch.cat([key, self.bias_k.expand(extra)], 1), torch.cat([value, self.bias_v.expand(extra)], 1)


class FirstToken(nn.Module):
    """[N, L, D] → the class token, [N, D]."""

    def forward(self, states: Tensor) -> Tensor:
        """See the class."""
        return states[:, 0]


class TextHead(nn.Module):
    """The pooled state [N, D] → [N, E]."""

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(_norm(dim), nn.Linear(dim, embed_dim, bias=False))

    def forward(self, pooled: Tensor) -> Tensor:
        """See the class."""
        return self.proj(pooled)


class UnitLength(nn.Module):
    """Embeddings [..., E] → the same, scaled to norm 1."""

    def forward(self, embeddings: Tensor) -> Tensor:
        """See the class."""
        return F.normalize(embeddings, dim=-1)


class LogitScale(nn.Module):
    """Embeddings times exp(``log_logit_scale``), a factor of at most 100."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self, embeddings: Tensor) -> Tensor:
        """See the class."""
        return embeddings * self.log_logit_scale.float().exp().clamp_max(MAX_SCALE)
