"""The network of AudioBox-Aesthetics: a WavLM backbone and one small head per axis, our own implementation.

Parameter names are those of the published weights. Sources: A. Tjandra et al., "Meta Audiobox Aesthetics" (2025), §3, and S. Chen et
al., "WavLM" (2022), §3.2 (gated relative position bias). As published, the backbone is post-norm, and the first convolution is
normalised over the whole window, padding included, so all windows must have the same length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AXES = ("CE", "CU", "PC", "PQ")
"""Content enjoyment, content usefulness, production complexity, production quality: the order of the axes in this package."""
CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)


@dataclass(frozen=True)
class HeadLayout:
    """Module indices of a head's linear layers and LayerNorms, as in the published names.

    The first other module after them is the activation (GELU); the second one, dropout, is the identity here.
    """

    linears: tuple[int, ...] = (0,)
    norms: tuple[int, ...] = ()


@dataclass(frozen=True)
class AudioBoxSizes:
    """Sizes of the network; the defaults, heads included, are those of the published weights (confirmed by the file's size)."""

    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward: int = 3072
    conv_channels: int = 512
    position_kernel: int = 128
    position_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    head: HeadLayout = HeadLayout((0, 3, 6, 9, 12), (1, 4, 7, 10))


FULL = AudioBoxSizes()
TINY = AudioBoxSizes(
    width=16, num_layers=2, num_heads=2, feed_forward=32, conv_channels=8, position_kernel=8, position_groups=2,
    num_buckets=32, max_distance=80, head=HeadLayout((0, 3), (1,)),
)  # fmt: skip


def num_frames(num_samples: int) -> int:
    """Number of frames that the convolution stack makes of ``num_samples`` samples at 16 kHz: 499 for 10 s."""
    for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
        num_samples = (num_samples - kernel) // stride + 1
    return num_samples


def valid_frames(lengths: Tensor, num_samples: int) -> Tensor:
    """Mask [B, T] of the frames, of windows of ``num_samples``, with any of the first ``lengths`` [B] samples.

    As published, the samples are divided evenly among the frames; the remaining samples belong to no frame.
    """
    frames = num_frames(num_samples)
    starts = torch.arange(frames, device=lengths.device) * (num_samples // frames)
    return starts < lengths[:, None]


class ConvStack(nn.Module):
    """Waveform [B, S] → features [B, C, T], one every 20 ms."""

    def __init__(self, sizes: AudioBoxSizes) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (kernel, stride) in enumerate(zip(CONV_KERNELS, CONV_STRIDES, strict=True)):
            channels = sizes.conv_channels
            conv = nn.Conv1d(channels if index else 1, channels, kernel, stride, bias=False)
            norms = [] if index else [nn.GroupNorm(channels, channels)]
            layers.append(nn.Sequential(conv, nn.Identity(), *norms, nn.GELU()))
        self.conv_layers = nn.ModuleList(layers)

    def forward(self, audio: Tensor) -> Tensor:
        """See the class."""
        features = audio[:, None]
        for layer in self.conv_layers:
            features = layer(features)
        return features


class PositionConv(nn.Module):
    """[B, T, D] → [B, T, D]: a grouped convolution over time whose kernels are normalised per tap (weight norm)."""

    def __init__(self, sizes: AudioBoxSizes) -> None:
        super().__init__()
        self.groups = sizes.position_groups
        self.weight_g = nn.Parameter(torch.ones(1, 1, sizes.position_kernel))
        self.weight_v = nn.Parameter(torch.ones(sizes.width, sizes.width // self.groups, sizes.position_kernel))
        self.bias = nn.Parameter(torch.zeros(sizes.width))

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class. A kernel of even length gives an extra frame at the end, which is dropped."""
        weight = self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)
        padding = weight.shape[-1] // 2
        convolved = F.conv1d(hidden.transpose(1, 2), weight, self.bias, padding=padding, groups=self.groups)
        return F.gelu(convolved[..., : hidden.shape[1]].transpose(1, 2))


class GatedAttention(nn.Module):
    """Self-attention with a relative position bias that is scaled by a gate of each query (WavLM, equations 4 to 7)."""

    def __init__(self, sizes: AudioBoxSizes, has_bias_table: bool) -> None:
        super().__init__()
        self.num_heads, width = sizes.num_heads, sizes.width
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.grep_linear = nn.Linear(width // self.num_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.num_heads, 1, 1))
        if has_bias_table:
            self.relative_attention_bias = nn.Embedding(sizes.num_buckets, self.num_heads)

    def forward(self, hidden: Tensor, bias: Tensor, is_valid: Tensor) -> Tensor:
        """[B, T, D], bias [H, T, T], valid keys [B, T] → [B, T, D]."""
        query, key, value = (self._split(project(hidden)) for project in (self.q_proj, self.k_proj, self.v_proj))
        mask = (self._gate(hidden) * bias).masked_fill(~is_valid[:, None, None, :], -math.inf)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _gate(self, hidden: Tensor) -> Tensor:
        """[B, H, T, 1] of the layer's input: 2 + update · (reset · grep_a − 1)."""
        update, reset = self.grep_linear(self._split(hidden)).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        return update * (reset * self.grep_a - 1.0) + 2.0

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class WavlmLayer(nn.Module):
    """Attention and a feed-forward network, each added to its input and then normalised."""

    def __init__(self, sizes: AudioBoxSizes, has_bias_table: bool) -> None:
        super().__init__()
        self.self_attn = GatedAttention(sizes, has_bias_table)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width)
        self.fc1 = nn.Linear(sizes.width, sizes.feed_forward)
        self.fc2 = nn.Linear(sizes.feed_forward, sizes.width)
        self.final_layer_norm = nn.LayerNorm(sizes.width)

    def forward(self, hidden: Tensor, bias: Tensor, is_valid: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]; see :class:`GatedAttention`."""
        hidden = self.self_attn_layer_norm(hidden + self.self_attn(hidden, bias, is_valid))
        return self.final_layer_norm(hidden + self.fc2(F.gelu(self.fc1(hidden))))


class WavlmEncoder(nn.Module):
    """[B, T, D] → the states before and after every layer. Only the first layer has the table of position biases."""

    def __init__(self, sizes: AudioBoxSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.pos_conv = nn.Sequential(PositionConv(sizes))
        self.layer_norm = nn.LayerNorm(sizes.width)
        self.layers = nn.ModuleList(WavlmLayer(sizes, index == 0) for index in range(sizes.num_layers))

    def forward(self, hidden: Tensor, is_valid: Tensor) -> list[Tensor]:
        """``is_valid`` is [B, T]; invalid frames are set to zero and masked in attention."""
        hidden = hidden * is_valid[..., None]
        states = [self.layer_norm(hidden + self.pos_conv(hidden))]
        bias = self._position_bias(hidden.shape[1])
        for layer in self.layers:
            states.append(layer(states[-1], bias, is_valid))
        return states

    def _position_bias(self, frames: int) -> Tensor:
        first = self.layers[0]
        assert isinstance(first, WavlmLayer)
        table = first.self_attn.relative_attention_bias
        frame = torch.arange(frames, device=table.weight.device)
        return table(position_bucket(frame - frame[:, None], self.sizes.num_buckets, self.sizes.max_distance)).permute(
            2, 0, 1
        )


def position_bucket(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Row of the bias table for ``distance`` = key − query: half of the rows per sign, of which half exact and half logarithmic."""
    of_sign = num_buckets // 2
    exact = of_sign // 2
    far = torch.log(distance.abs().clamp_min(1).float() / exact) / math.log(max_distance / exact) * (of_sign - exact)
    magnitude = torch.where(distance.abs() < exact, distance.abs(), (exact + far).long().clamp_max(of_sign - 1))
    return magnitude + (distance > 0).long() * of_sign


class Wavlm(nn.Module):
    """WavLM: windows [B, S] at 16 kHz → num_layers + 1 states [B, T, D]."""

    def __init__(self, sizes: AudioBoxSizes) -> None:
        super().__init__()
        self.feature_extractor = ConvStack(sizes)
        self.layer_norm = nn.LayerNorm(sizes.conv_channels)
        self.post_extract_proj = nn.Linear(sizes.conv_channels, sizes.width)
        self.encoder = WavlmEncoder(sizes)

    def forward(self, windows: Tensor, is_valid: Tensor) -> list[Tensor]:
        """``is_valid`` [B, T]: see :func:`valid_frames`."""
        features = self.feature_extractor(windows).transpose(1, 2)
        return self.encoder(self.post_extract_proj(self.layer_norm(features)), is_valid)


def build_head(layout: HeadLayout, width: int) -> nn.Sequential:
    """A head [B, D] → [B, 1] with the module indices of ``layout``."""
    modules: list[nn.Module] = []
    for index in range(layout.linears[-1] + 1):
        if index in layout.linears:
            modules.append(nn.Linear(width, 1 if index == layout.linears[-1] else width))
        elif index in layout.norms:
            modules.append(nn.LayerNorm(width))
        else:
            modules.append(nn.Identity() if isinstance(modules[-1], nn.GELU) else nn.GELU())
    return nn.Sequential(*modules)


class AudioBoxNetwork(nn.Module):
    """Windows of 10 s → one number per axis, before it is scaled to the labels."""

    def __init__(self, sizes: AudioBoxSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.wavlm_model = Wavlm(sizes)
        self.proj_layer = nn.ModuleDict({axis: build_head(sizes.head, sizes.width) for axis in AXES})
        self.layer_weights = nn.ParameterDict({axis: nn.Parameter(torch.zeros(sizes.num_layers + 1)) for axis in AXES})

    def forward(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Windows [B, S], of which the first ``lengths`` [B] samples are sound and the rest zeros → [B, 4], ordered as :data:`AXES`."""
        is_valid = valid_frames(lengths, windows.shape[1])
        share = (is_valid / is_valid.sum(dim=1, keepdim=True)).to(windows.dtype)
        states = self.wavlm_model(windows, is_valid)
        means = torch.stack([torch.einsum("bt,btd->bd", share, state) for state in states])
        columns = []
        for axis in AXES:
            mixed = torch.einsum("l,lbd->bd", self.layer_weights[axis].softmax(dim=0), means)
            columns.append(self.proj_layer[axis](F.normalize(mixed, dim=-1)))
        return torch.cat(columns, dim=1)
