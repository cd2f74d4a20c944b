"""The networks of Synchformer: a tower for the frames, a tower for the sound, and a comparator that estimates their offset.

Written from the papers: V. Iashin et al., "Synchformer: Efficient Synchronization from Sparse Cues" (2024). Its video tower uses
the divided space-time attention of G. Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?" (2021);
its audio tower is that of Y. Gong et al., "AST: Audio Spectrogram Transformer" (2021). Parameter names are those of the published
weights. Attention uses torch's fused kernel; if only the class token of a layer is used, only that token is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpref.rewards.synchformer.linear import FusedLinear

VIDEO_EPS, AUDIO_EPS, POOL_EPS, COMPARATOR_EPS = 1e-6, 1e-12, 1e-6, 1e-5


@dataclass(frozen=True)
class SynchformerSizes:
    """Sizes of all three networks; the defaults are the published ones.

    A segment has ``segment_frames`` frames of ``image_px``² pixels, split into patches of ``tubelet_frames`` × ``patch_px``², and a
    mel spectrogram of ``mel_bins`` × ``mel_frames``, split into overlapping patches of ``audio_patch``² every ``audio_stride``.
    """

    dim: int = 768
    heads: int = 12
    depth: int = 12
    image_px: int = 224
    patch_px: int = 16
    segment_frames: int = 16
    tubelet_frames: int = 2
    mel_bins: int = 128
    mel_frames: int = 66
    audio_patch: int = 16
    audio_stride: int = 10
    comparator_segments: int = 14
    comparator_heads: int = 8
    comparator_depth: int = 3
    num_classes: int = 21

    @property
    def video_steps(self) -> int:
        """Time steps of a video segment."""
        return self.segment_frames // self.tubelet_frames

    @property
    def num_patches(self) -> int:
        """Patches of one time step."""
        return (self.image_px // self.patch_px) ** 2

    @property
    def video_tokens(self) -> int:
        """Tokens of a video segment: the class token and the patches of all time steps."""
        return 1 + self.video_steps * self.num_patches

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Numbers of patches of a spectrogram in frequency and in time."""
        bins, frames = (
            (length - self.audio_patch) // self.audio_stride + 1 for length in (self.mel_bins, self.mel_frames)
        )
        return bins, frames

    @property
    def comparator_tokens(self) -> int:
        """Positions of the comparator: the time steps of both streams and one token before each stream."""
        return self.comparator_segments * (self.video_steps + self.audio_grid[1]) + 2


FULL = SynchformerSizes()
TINY = SynchformerSizes(dim=16, heads=2, depth=1, image_px=32, comparator_heads=2, comparator_depth=1)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v of [B, L, heads, d], returned as [B, L, heads · d]."""
    mixed = functional.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return mixed.transpose(1, 2).flatten(2)


class DividedAttention(nn.Module):
    """Self-attention in groups: a token attends to its own group and the class token, the class token to all tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = FusedLinear(dim, 3 * dim), FusedLinear(dim, dim)

    def over_time(self, tokens: Tensor, steps: int, stream: Tensor) -> Tensor:
        """``stream`` plus attention of [B, 1 + T·N, D] in groups of equal position in the picture, T = ``steps``."""
        return self.proj.add_to(self._within(tokens, steps, (2, 1)), stream)

    def over_space(self, tokens: Tensor, steps: int, stream: Tensor) -> Tensor:
        """``stream`` plus attention of [B, 1 + T·N, D] in groups of equal time, T = ``steps``."""
        return self.proj.add_to(self._within(tokens, steps, (1, 2)), stream)

    def _within(self, tokens: Tensor, steps: int, order: tuple[int, int]) -> Tensor:
        """Attention in groups; ``order`` are the axes of the patches [B, T, N, ...] that are group and member."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.unbind(2)
        first = _attend(query[:, :1], key, value)
        patches = qkv[:, 1:].unflatten(1, (steps, -1)).movedim(order, (1, 2))
        batch, groups, members = patches.shape[:3]
        class_token = qkv[:, None, :1, 1:].expand(-1, groups, -1, -1, -1, -1)
        key_value = torch.cat([class_token, patches[:, :, :, 1:]], dim=2).flatten(0, 1)
        rest = _attend(patches[:, :, :, 0].reshape(batch * groups, members, *query.shape[2:]), *key_value.unbind(2))
        rest = rest.unflatten(0, (batch, groups)).movedim((1, 2), order).flatten(1, 2)
        return torch.cat([first, rest], dim=1)


class FusedMlp(nn.Module):
    """Two linear layers with a GELU between them and a hidden width of 4 D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = FusedLinear(dim, 4 * dim), FusedLinear(4 * dim, dim)

    def forward(self, normed: Tensor, stream: Tensor) -> Tensor:
        """``stream`` plus the MLP's output for ``normed``, both [..., D]."""
        return self.fc2.add_to(self.fc1.gelu(normed), stream)


class SpaceTimeBlock(nn.Module):
    """A pre-norm transformer block: attention over time, then over space, then an MLP, each added to the residual stream."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, VIDEO_EPS) for _ in range(3))
        self.attn, self.timeattn = DividedAttention(dim, heads), DividedAttention(dim, heads)
        self.mlp = FusedMlp(dim)

    def forward(self, tokens: Tensor, steps: int) -> Tensor:
        """[B, 1 + T·N, D] to the same, T = ``steps``."""
        tokens = self.timeattn.over_time(self.norm3(tokens), steps, tokens)
        tokens = self.attn.over_space(self.norm1(tokens), steps, tokens)
        return self.mlp(self.norm2(tokens), tokens)


class PooledAttention(nn.Module):
    """Attention of the first token of each set to its set; queries, keys and values come from one matrix, in this order."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, D] to [B, 1, D], for the first token of each set."""
        weights, biases = (part.split([self.dim, 2 * self.dim]) for part in (self.in_proj_weight, self.in_proj_bias))
        query = functional.linear(tokens[:, :1], weights[0], biases[0]).unflatten(-1, (self.heads, -1))
        key_value = functional.linear(tokens, weights[1], biases[1]).unflatten(-1, (2, self.heads, -1))
        return self.out_proj(_attend(query, *key_value.unbind(2)))


class PooledTokens(nn.Module):
    """A pre-norm encoder layer over a set and a class token; only the class token is computed and returned."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.self_attn = PooledAttention(dim, heads)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, POOL_EPS), nn.LayerNorm(dim, POOL_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, D] to [B, D]."""
        pooled = self.cls_token.expand(len(tokens), -1, -1)
        pooled = pooled + self.self_attn(self.norm1(torch.cat([pooled, tokens], dim=1)))
        return (pooled + self.linear2(functional.gelu(self.linear1(self.norm2(pooled)))))[:, 0]


class VideoTower(nn.Module):
    """Video segments to one vector per time step: divided attention over patches, then pooling over the patches of a step."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        dim, patch = sizes.dim, sizes.patch_px
        kernel = (sizes.tubelet_frames, patch, patch)
        self.sizes = sizes
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.num_patches, dim))
        self.temp_embed = nn.Parameter(torch.zeros(1, sizes.video_steps, dim))
        self.patch_embed_3d = nn.ModuleDict({"proj": nn.Conv3d(3, dim, kernel, kernel)})
        self.blocks = nn.ModuleList(SpaceTimeBlock(dim, sizes.heads) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(dim, VIDEO_EPS)
        self.spatial_attn_agg = PooledTokens(dim, sizes.heads)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised frames [B, segment_frames, H, W, 3] to features [B, video_steps, D]."""
        steps = self.sizes.video_steps
        positions = self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        patches = self._patches(frames) + positions.flatten(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(frames), -1, -1)
        tokens = torch.cat([first, patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens, steps)
        moments = self.norm(tokens[:, 1:]).unflatten(1, (steps, -1))
        return self.spatial_attn_agg(moments.flatten(0, 1)).unflatten(0, (-1, steps))

    def _patches(self, frames: Tensor) -> Tensor:
        """The strided convolution as one matrix product: [B, T, H, W, 3] to [B, T' · N, D]."""
        proj, side = self.patch_embed_3d["proj"], self.sizes.patch_px
        assert isinstance(proj, nn.Conv3d)
        across = self.sizes.image_px // side
        split = frames.unflatten(3, (across, side)).unflatten(2, (across, side))
        split = split.unflatten(1, (self.sizes.video_steps, -1))
        rows = split.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4).flatten(1, 3)
        return functional.linear(rows, proj.weight.flatten(1), proj.bias)


class AstAttention(nn.Module):
    """Self-attention of the spectrogram tower."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(dim, dim)})

    def forward(self, normed: Tensor) -> Tensor:
        """[B, L, D] to the same."""
        parts = (self.attention[name](normed).unflatten(-1, (self.heads, -1)) for name in ("query", "key", "value"))
        return self.output["dense"](_attend(*parts))


class AstLayer(nn.Module):
    """A pre-norm transformer layer of the spectrogram tower."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = AstAttention(dim, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, 4 * dim)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * dim, dim)})
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(dim, AUDIO_EPS), nn.LayerNorm(dim, AUDIO_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, D] to the same."""
        tokens = tokens + self.attention(self.layernorm_before(tokens))
        hidden = functional.gelu(self.intermediate["dense"](self.layernorm_after(tokens)))
        return tokens + self.output["dense"](hidden)


class AstEmbeddings(nn.Module):
    """A class token, a distillation token and the patches of a spectrogram, with learned positions."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        bins, frames = sizes.audio_grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.dim))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, sizes.dim))
        self.position_embeddings = nn.Parameter(torch.zeros(1, bins * frames + 2, sizes.dim))
        projection = nn.Conv2d(1, sizes.dim, sizes.audio_patch, sizes.audio_stride)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def forward(self, mel: Tensor) -> Tensor:
        """[B, bins, frames] to [B, 2 + F·T, D], frequency first."""
        patches = self.patch_embeddings["projection"](mel[:, None]).flatten(2).transpose(1, 2)
        special = (self.cls_token.expand(len(mel), -1, -1), self.distillation_token.expand(len(mel), -1, -1))
        return torch.cat([*special, patches], dim=1) + self.position_embeddings


class AstEncoder(nn.Module):
    """The layers of the spectrogram tower, in sequence."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.layer = nn.ModuleList(AstLayer(sizes.dim, sizes.heads) for _ in range(sizes.depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, D] to the same."""
        for layer in self.layer:
            tokens = layer(tokens)
        return tokens


class SpectrogramTransformer(nn.Module):
    """Spectrogram to normalised tokens: embeddings, layers and the last norm."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.embeddings = AstEmbeddings(sizes)
        self.encoder = AstEncoder(sizes)
        self.layernorm = nn.LayerNorm(sizes.dim, AUDIO_EPS)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, bins, frames] to [B, 2 + F·T, D]."""
        return self.layernorm(self.encoder(self.embeddings(mel)))


class AudioTower(nn.Module):
    """Audio segments to one vector per time step: a transformer over patches, then pooling over the frequencies of a step."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        self.grid = sizes.audio_grid
        self.ast = SpectrogramTransformer(sizes)
        self.freq_attn_agg = PooledTokens(sizes.dim, sizes.heads)

    def forward(self, mel: Tensor) -> Tensor:
        """Normalised log-mel spectrograms [B, bins, frames] to features [B, T, D]."""
        moments = self.ast(mel)[:, 2:].unflatten(1, self.grid).transpose(1, 2)
        return self.freq_attn_agg(moments.flatten(0, 1)).unflatten(0, moments.shape[:2])


class ComparatorBlock(nn.Module):
    """A pre-norm transformer block of the comparator."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(dim, COMPARATOR_EPS), nn.LayerNorm(dim, COMPARATOR_EPS)
        self.attn = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("query", "key", "value", "proj")})
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, D] to the same."""
        normed = self.ln1(tokens)
        parts = (self.attn[name](normed).unflatten(-1, (self.heads, -1)) for name in ("query", "key", "value"))
        tokens = tokens + self.attn["proj"](_attend(*parts))
        return tokens + self.mlp(self.ln2(tokens))


class Comparator(nn.Module):
    """A transformer over the concatenated streams of a window, with logits over offsets."""

    def __init__(self, sizes: SynchformerSizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.OFF_tok, self.MOD_tok = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(1, 1, dim))
        self.vis_in_lnorm, self.aud_in_lnorm = nn.LayerNorm(dim, COMPARATOR_EPS), nn.LayerNorm(dim, COMPARATOR_EPS)
        self.pos_emb_cfg = nn.ParameterDict({"pos_emb": torch.zeros(1, sizes.comparator_tokens, dim)})
        self.blocks = nn.ModuleList(ComparatorBlock(dim, sizes.comparator_heads) for _ in range(sizes.comparator_depth))
        self.ln_f = nn.LayerNorm(dim, COMPARATOR_EPS)
        self.off_head = nn.Linear(dim, sizes.num_classes)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Projected features [W, S·T, D] of both streams to logits [W, classes]; S is exactly ``comparator_segments``."""
        offset, divider = (token.expand(len(video), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        streams = [offset, self.vis_in_lnorm(video), divider, self.aud_in_lnorm(audio)]
        tokens = torch.cat(streams, dim=1) + self.pos_emb_cfg["pos_emb"]
        for block in self.blocks:
            tokens = block(tokens)
        return self.off_head(self.ln_f(tokens[:, 0]))


class Synchformer(nn.Module):
    """The two towers and the comparator."""

    def __init__(self, sizes: SynchformerSizes = FULL) -> None:
        super().__init__()
        self.sizes = sizes
        self.vfeat_extractor, self.afeat_extractor = VideoTower(sizes), AudioTower(sizes)
        self.vproj, self.aproj = nn.Linear(sizes.dim, sizes.dim), nn.Linear(sizes.dim, sizes.dim)
        self.transformer = Comparator(sizes)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Features of windows, [W, S, T, D] per stream with S = ``comparator_segments``, to logits [W, classes].

        Class i means that the sound is early by (i − classes // 2) · 0.2 s.
        """
        return self.transformer(self.vproj(video).flatten(1, 2), self.aproj(audio).flatten(1, 2))
