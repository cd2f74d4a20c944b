"""HiST-Sypo: estimates tokens that say where and when sounding things happen, from the text states of ImageBind.

    text states [B, N, 1024] → encoder → decoder with one learned query per token → mean and log variance → prior tokens

Names and shapes are those of the released weights. The encoder's feed-forward uses GELU (tanh) and the decoder's ReLU, as the released
code runs. A training build also has the networks that embed video and audio, and the discriminator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from avpref.models.dual_stream.clip_embeddings import Discriminator, MergeBlock, clip_tokens
from avpref.models.dual_stream.stream_embeddings import PatchEmbedding

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0


@dataclass(frozen=True)
class PriorConfig:
    """Constructor values under the original's names; the defaults are those of the release."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    text_emb_dim: int = 1024
    spatial_token_num: int = 32
    temporal_token_num: int = 32
    hidden_size: int = 512
    out_dim: int = 128
    nhead: int = 4
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    feedforward_scale: int = 4
    apply_sampling: bool = True
    encode_va: bool = False
    video_in_channel: int = 4
    video_patch_size: tuple[int, int, int] = (1, 2, 2)
    video_input_sq_size: int = 512
    audio_in_channel: int = 8
    audio_patch_size: tuple[int, int] = (2, 2)
    va_num_heads: int = 4
    va_mlp_ratio: float = 4.0

    @property
    def num_tokens(self) -> int:
        """Tokens of both kinds."""
        return self.spatial_token_num + self.temporal_token_num


class Priors(NamedTuple):
    """Prior tokens of a text: ``spatial`` and ``temporal`` [B, K, c]; ``mean`` and ``log_variance`` [B, K of both, c] of their
    distribution, None where the estimator has none."""

    spatial: Tensor
    temporal: Tensor
    mean: Tensor
    log_variance: Tensor | None


class _Extractor(nn.Module):
    """Encoder and decoder with PyTorch's layers, norms before each part, no dropout and no masks."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        dim, inner = config.hidden_size, config.feedforward_scale * config.hidden_size
        gelu = partial(F.gelu, approximate="tanh")
        common = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        encoder = nn.TransformerEncoderLayer(dim, config.nhead, inner, activation=gelu, **common)  # type: ignore[arg-type]
        decoder = nn.TransformerDecoderLayer(dim, config.nhead, inner, activation=F.relu, **common)  # type: ignore[arg-type]
        self.encoder = nn.TransformerEncoder(
            encoder, config.num_encoder_layers, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(decoder, config.num_decoder_layers, nn.LayerNorm(dim))

    def forward(self, text: Tensor, queries: Tensor) -> Tensor:
        """text [B, N, d], queries [B, K, d] → [B, K, d]."""
        out: Tensor = self.decoder(queries, self.encoder(text))
        return out


class SynchronyPrior(nn.Module):
    """The estimator; with ``encode_va`` also the parts that only training needs."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        dim, out = config.hidden_size, config.out_dim
        self.spatial_query_emb = nn.Parameter(torch.randn(1, config.spatial_token_num, dim))
        self.temporal_query_emb = nn.Parameter(torch.randn(1, config.temporal_token_num, dim))
        self.in_proj = nn.Linear(config.text_emb_dim, dim)
        self.prior_extractor = _Extractor(config)
        self.out_proj = nn.Linear(dim, 2 * out if config.apply_sampling else out)
        if config.encode_va:
            self.video_embedder = PatchEmbedding(config.video_in_channel, out, config.video_patch_size)
            self.audio_embedder = nn.Conv2d(
                config.audio_in_channel, out, config.audio_patch_size, config.audio_patch_size
            )
            self.va_spatial_encoder = MergeBlock(out, config.va_num_heads, config.va_mlp_ratio)
            self.va_temporal_encoder = MergeBlock(out, config.va_num_heads, config.va_mlp_ratio)
            self.discriminator = Discriminator(out, config.va_num_heads)

    def forward(self, text: Tensor, noise: Tensor | None = None) -> Priors:
        """Priors of text states [B, N, text_emb_dim]; ``noise`` N(0, 1) [B, K of both, out_dim], none: the means.

        Raises ValueError for noise where the estimator has no variance.
        """
        queries = torch.cat([self.spatial_query_emb, self.temporal_query_emb], dim=1).expand(len(text), -1, -1)
        moments = self.out_proj(self.prior_extractor(self.in_proj(text), queries))
        if not self.config.apply_sampling:
            if noise is not None:
                raise ValueError("an estimator without sampling takes no noise")
            return Priors(*self._split(moments), moments, None)
        mean, log_variance = moments.chunk(2, dim=-1)
        log_variance = log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        drawn = mean if noise is None else mean + (0.5 * log_variance).exp() * noise
        return Priors(*self._split(drawn), mean, log_variance)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        spatial, temporal = tokens.split([self.config.spatial_token_num, self.config.temporal_token_num], dim=1)
        return spatial, temporal

    def embed_video(self, latents: Tensor, size_px: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Video latents [B, C, T, h, w] as tokens for the spatial merge [B, T, K, c] and for the temporal one [B, K, S, c]."""
        patches = self.video_embedder(latents)
        config = self.config
        return clip_tokens(
            patches, config.spatial_token_num, config.temporal_token_num, size_px, config.video_input_sq_size
        )

    def embed_audio(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Audio latents [B, C, L, M], both even, as tokens [B, R, K, c] and [B, K, M / 2, c]. Raises ValueError for odd sizes."""
        if latents.shape[2] % self.config.audio_patch_size[0] or latents.shape[3] % self.config.audio_patch_size[1]:
            raise ValueError(f"audio latents {list(latents.shape[2:])} are no whole number of patches")
        patches = self.audio_embedder(latents).movedim(1, -1)
        return clip_tokens(patches, self.config.spatial_token_num, self.config.temporal_token_num)


def kl_divergence(priors: Priors) -> Tensor:
    """KL divergence of each row's distribution from N(0, 1), summed over tokens and channels [B]."""
    assert priors.log_variance is not None
    terms = priors.mean.square() + priors.log_variance.exp() - 1 - priors.log_variance
    return 0.5 * terms.flatten(1).sum(dim=1)
