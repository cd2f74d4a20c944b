"""JavisDiT++: the joint audio-video diffusion transformer (Wan2.1 base, audio branch, TA-RoPE), as released.

Parameter names and shapes are those of the released checkpoints. The output keeps Wan's own sign: the velocity x1 - x0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avpref.config.network_settings import NetworkSettings
from avpref.models.blocks import Block, FeedForward, Modulation, split_frames
from avpref.models.conditioning import LatentTimes, token_times
from avpref.models.embeddings import Float32Linear, Head, embed_patches, sinusoid, unpatchify
from avpref.models.flow import Latents
from avpref.models.positions import AudioPositions, TokenGrid, rotary_table


class ModelType(StrEnum):
    """Which modalities a build has: video, audio (the paper's stage 1), or both."""

    T2V = "t2v"
    T2A = "t2a"
    T2AV = "t2av"

    @property
    def has_video(self) -> bool:
        """Whether the build reads and writes video latents."""
        return self is not ModelType.T2A

    @property
    def has_audio(self) -> bool:
        """Whether the build reads and writes audio latents."""
        return self is not ModelType.T2V


@dataclass(frozen=True)
class NetworkConfig:
    """Constructor values, by the original's names; the network writes as many channels as it reads.

    ``dual_ffn=False`` is the shared variant of the paper's ablation (table 2): audio tokens use the base feed-forward.
    Raises ValueError where the sizes do not fit each other.
    """

    dim: int
    ffn_dim: int
    freq_dim: int
    text_dim: int
    text_len: int
    num_heads: int
    num_layers: int
    in_dim: int
    audio_in_dim: int
    patch_size: tuple[int, int, int] = (1, 2, 2)
    audio_patch_size: tuple[int, int] = (2, 2)
    audio_pe_type: AudioPositions = AudioPositions.INTERLEAVE_OFFSET
    dual_ffn: bool = True
    qk_norm: bool = True
    cross_attn_norm: bool = True

    def __post_init__(self) -> None:
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"dim {self.dim} does not split into {self.num_heads} heads of even size; change network.num_heads"
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim must be even, found {self.freq_dim}; change network.freq_dim")

    @classmethod
    def from_settings(cls, settings: NetworkSettings) -> NetworkConfig:
        """The section ``network`` of a configuration file."""
        return TypeAdapter(cls).validate_python(settings.model_dump())

    @classmethod
    def from_original(cls, values: Mapping[str, object]) -> NetworkConfig:
        """From the original constructor's arguments (JSON values); those that are no part of the shape are left out.

        Raises ValueError where the network would write another number of channels than it reads.
        """
        for written, read in (("out_dim", "in_dim"), ("audio_out_dim", "audio_in_dim")):
            if values.get(written, values[read]) != values[read]:
                raise ValueError(
                    f"a velocity network needs {written} = {read}, found {values[written]} and {values[read]}"
                )
        kept = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return TypeAdapter(cls).validate_python(kept)

    def to_json(self) -> str:
        """Canonical JSON; :meth:`from_original` of its values gives an equal configuration."""
        return json.dumps(asdict(self), sort_keys=True)


class JavisDiT(nn.Module):
    """The network. A fresh instance holds torch's default values: follow it by ``initialise`` or use ``load_network``.

    ``activation_checkpointing`` recomputes each block in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: NetworkConfig, model_type: ModelType = ModelType.T2AV) -> None:
        super().__init__()
        self.config, self.model_type = config, model_type
        self.activation_checkpointing = False
        dim, patch, audio_patch = config.dim, config.patch_size, config.audio_patch_size
        self.has_audio_ffn = model_type.has_audio and config.dual_ffn
        if model_type.has_video:
            self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=patch, stride=patch)
            self.head = Head(dim, config.in_dim * math.prod(patch))
        if model_type.has_audio:
            self.audio_patch_embedding = nn.Conv2d(
                config.audio_in_dim, dim, kernel_size=audio_patch, stride=audio_patch
            )
            self.audio_head = Head(dim, config.audio_in_dim * math.prod(audio_patch))
        self.text_embedding = FeedForward(config.text_dim, dim, dim)
        self.time_embedding = nn.Sequential(Float32Linear(config.freq_dim, dim), nn.SiLU(), Float32Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), Float32Linear(dim, 6 * dim))
        if self.has_audio_ffn:
            self.audio_time_projection = nn.Sequential(nn.SiLU(), Float32Linear(dim, 3 * dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.ffn_dim,
                config.num_heads,
                qk_norm=config.qk_norm,
                cross_attn_norm=config.cross_attn_norm,
                has_base=model_type.has_video or not config.dual_ffn,
                has_audio=self.has_audio_ffn,
            )
            for _ in range(config.num_layers)
        )

    def forward(
        self,
        latents: Latents,
        t: Tensor | LatentTimes,
        text: Tensor,
        text_mask: Tensor,
        *,
        num_video_latents: int | None = None,
    ) -> Latents:
        """Velocity x1 - x0 of noisy latents, float32, in the shapes that came in.

        Args:
            latents: x_t; exactly the modalities of this build.
            t: [B], one timestep in [0, 1] per sample; or LatentTimes, one per latent frame.
            text: [B, text_len, text_dim] hidden states; text_mask: [B, text_len], non-zero where a state is real.
            num_video_latents: for audio-only builds, over how many latent frames the audio's positions spread; the
                original takes (n - 1) // 4 + 1 for a clip of n frames. Builds with video take it from their latents.

        Raises ValueError for absent or surplus modalities, for sizes that do not fit the patches or the text length, and for
        times that do not fit the latents or differ within a patch.
        """
        grid = self.token_grid(latents, num_video_latents)
        times, frames = token_times(t, latents, grid)
        e = self.time_embedding(sinusoid(times, self.config.freq_dim))
        x = self._embed_latents(latents)
        context = self._embed_text(text, text_mask, x.dtype)
        modulation = self._modulation(e, x.dtype, frames)
        rotary = rotary_table(grid, self.config.audio_pe_type, self.config.dim // self.config.num_heads, x.device)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, context, rotary, grid.num_video, use_reentrant=False)
            else:
                x = block(x, modulation, context, rotary, grid.num_video)
        return self._read_out(x, e, frames, grid)

    def token_grid(self, latents: Latents, num_video_latents: int | None = None) -> TokenGrid:
        """Token sizes of ``latents``; see :meth:`forward` for what is refused."""
        _check_present("video", latents.video, self.model_type.has_video)
        _check_present("audio", latents.audio, self.model_type.has_audio)
        audio = (0, 0) if latents.audio is None else _cut(latents.audio, self.config.audio_patch_size)
        if latents.video is not None:
            return TokenGrid(*_cut(latents.video, self.config.patch_size), *audio)
        if num_video_latents is None:
            raise ValueError("an audio-only build needs num_video_latents: (frames of the clip - 1) // 4 + 1")
        return TokenGrid(num_video_latents, 0, 0, *audio)

    def _modulation(self, e: Tensor, dtype: torch.dtype, frames: Tensor | None) -> Modulation:
        """Rows of all blocks from e float32 [B, F, d]: projected in float32, handed over in ``dtype``."""
        base = self.time_projection(e).unflatten(2, (6, -1)).to(dtype)
        if not self.has_audio_ffn:
            return Modulation(base, None, frames)
        return Modulation(base, self.audio_time_projection(e).unflatten(2, (3, -1)).to(dtype), frames)

    def _embed_text(self, text: Tensor, text_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """States [B, L, text_dim], mask [B, L] -> context [B, L, d]; masked states become zeros, as in the original."""
        if text.shape[1] != self.config.text_len:
            raise ValueError(f"text must be padded to {self.config.text_len} positions, found {text.shape[1]}")
        kept = text.masked_fill((text_mask == 0).unsqueeze(-1), 0)
        return self.text_embedding(kept.to(dtype))

    def _embed_latents(self, latents: Latents) -> Tensor:
        """Sequence [B, N, d]: all video tokens, then all audio tokens."""
        tokens = []
        if latents.video is not None:
            tokens.append(embed_patches(self.patch_embedding, latents.video))
        if latents.audio is not None:
            tokens.append(embed_patches(self.audio_patch_embedding, latents.audio))
        return torch.cat(tokens, dim=1) if len(tokens) > 1 else tokens[0]

    def _read_out(self, x: Tensor, e: Tensor, frames: Tensor | None, grid: TokenGrid) -> Latents:
        """Tokens [B, N, d] -> velocities float32 in latent shapes."""
        video = audio = None
        of_video, of_audio = split_frames(frames, grid.num_video)
        if self.model_type.has_video:
            cells = (grid.video_frames, grid.video_rows, grid.video_columns)
            video = unpatchify(self.head(x[:, : grid.num_video], e, of_video), cells, self.config.patch_size)
        if self.model_type.has_audio:
            steps = (grid.audio_steps, grid.audio_rows)
            velocity = self.audio_head(x[:, grid.num_video :], e, of_audio)
            audio = unpatchify(velocity, steps, self.config.audio_patch_size)
        return Latents(video, audio)


def compile_blocks(network: JavisDiT) -> None:
    """Compile every block in place (one graph each, shared code): names in the state dict stay as they are."""
    for block in network.blocks:
        block.compile(fullgraph=True)


def _check_present(name: str, latent: Tensor | None, is_wanted: bool) -> None:
    if (latent is not None) != is_wanted:
        raise ValueError(
            f"this build needs {name} latents" if is_wanted else f"this build has no {name}; pass {name}=None"
        )


def _cut(latent: Tensor, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis of [B, C, *sizes]; raises ValueError where a size is no multiple of its patch."""
    sizes = latent.shape[2:]
    if len(sizes) != len(patch) or any(size % step for size, step in zip(sizes, patch, strict=True)):
        raise ValueError(f"latents of size {tuple(sizes)} cannot be cut into patches of {patch}")
    return tuple(size // step for size, step in zip(sizes, patch, strict=True))
