"""JavisDiT++: the joint audio-video diffusion transformer (Wan2.1 base, audio branch, TA-RoPE), as released.

Parameter names and shapes are those of the released checkpoints. The output has Wan's sign: the velocity x1 - x0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from avpref.config.network_settings import NetworkSettings
from avpref.models.bases.velocity_network import AdapterTargets, VelocityNetwork
from avpref.models.blocks import Block, FeedForward, Modulation, split_frames
from avpref.models.conditioning import LatentTimes, token_times
from avpref.models.embeddings import Float32Linear, Head, embed_patches, sinusoid, unpatchify
from avpref.models.flow import Latents
from avpref.models.positions import AudioPositions, TokenGrid, rotary_table
from avpref.models.recomputation import run_block
from avpref.models.synchronisers.added_attention import SynchroniserInputs, same_time, synchroniser_layer
from avpref.models.synchronisers.synchroniser import LAYER, PriorSizes, Synchroniser
from avpref.models.text_padding import Context, merge_padding


class ModelType(StrEnum):
    """The modalities of a network: video, audio (the paper's stage 1), or both."""

    T2V = "t2v"
    T2A = "t2a"
    T2AV = "t2av"

    @property
    def has_video(self) -> bool:
        """Whether the network reads and writes video latents."""
        return self is not ModelType.T2A

    @property
    def has_audio(self) -> bool:
        """Whether the network reads and writes audio latents."""
        return self is not ModelType.T2V


ADDED_DEFAULTS: Mapping[str, object] = {"synchroniser": "ta_rope", "prior": None}
"""Values of a configuration that were added later, with their defaults."""


@dataclass(frozen=True)
class NetworkConfig:
    """Constructor values under the original's names; the network has as many output as input channels.

    ``dual_ffn=False`` is the shared variant of the paper's ablation (table 2): audio tokens use the base feed-forward.
    ``synchroniser`` is one of table 3; ``prior``, the sizes of its prior tokens, belongs to those with priors.
    Raises ValueError for sizes that contradict each other.
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
    synchroniser: Synchroniser = Synchroniser.TA_ROPE
    prior: PriorSizes | None = None

    def __post_init__(self) -> None:
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"dim {self.dim} does not split into {self.num_heads} heads of even size; change network.num_heads"
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim must be even, found {self.freq_dim}; change network.freq_dim")
        if self.synchroniser.has_priors != (self.prior is not None):
            raise ValueError(
                f"synchroniser {self.synchroniser} with prior {self.prior}; set network.prior if it has priors"
            )
        if self.prior is not None and self.prior.channels > self.text_dim:
            raise ValueError(
                f"prior.channels {self.prior.channels} exceed text_dim {self.text_dim}; change network.prior"
            )

    @property
    def positions(self) -> AudioPositions:
        """The scheme of audio positions: ``audio_pe_type`` with a synchroniser that aligns positions, else ``vanilla``."""
        return self.audio_pe_type if self.synchroniser.aligns_positions else AudioPositions.VANILLA

    @property
    def num_states(self) -> int:
        """States per text: prior tokens, then those of the text encoder."""
        return self.text_len + (0 if self.prior is None else self.prior.num_tokens)

    @classmethod
    def from_settings(cls, settings: NetworkSettings) -> NetworkConfig:
        """From the section ``network`` of a configuration file."""
        values = settings.model_dump(exclude={"prior"})
        if settings.prior is not None:
            values["prior"] = settings.prior.model_dump(exclude={"weights", "num_heads"})
        return TypeAdapter(cls).validate_python(values)

    @classmethod
    def from_original(cls, values: Mapping[str, object]) -> NetworkConfig:
        """From the arguments of the original constructor (JSON values); unknown ones are ignored.

        Raises ValueError if the number of output channels differs from the number of input channels.
        """
        for output, input_ in (("out_dim", "in_dim"), ("audio_out_dim", "audio_in_dim")):
            if values.get(output, values[input_]) != values[input_]:
                raise ValueError(
                    f"a velocity network needs {output} = {input_}, found {values[output]} and {values[input_]}"
                )
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return TypeAdapter(cls).validate_python(known)

    def to_json(self) -> str:
        """Canonical JSON; :meth:`from_original` of its values gives an equal configuration.

        Values that were added later are left out where they have their default, so that files of earlier networks stay equal.
        """
        values = asdict(self)
        for name, default in ADDED_DEFAULTS.items():
            if values[name] == default:
                del values[name]
        return json.dumps(values, sort_keys=True)


ADAPTED = tuple(
    [f"{attention}.{projection}" for attention in ("self_attn", "cross_attn") for projection in "qkvo"]
    + [f"{network}.{layer}" for network in ("ffn", "audio_ffn") for layer in (0, 2)]
)
"""Adapted linear layers of one block in the released configuration: 12 with two feed-forward networks, 10 with one."""
ADAPTED_ADDED = tuple(
    f"{LAYER}.{attention}.{projection}"
    for attention in ("spatial", "temporal", "of_video", "of_audio")
    for projection in "qkvo"
)
"""Adapted linear layers of an added synchroniser: 8 of these."""


class JavisDiT(VelocityNetwork):
    """The network. A new instance holds torch's default values: call ``initialise``, or use ``load_network``."""

    def __init__(self, config: NetworkConfig, model_type: ModelType = ModelType.T2AV) -> None:
        super().__init__()
        self.config, self.model_type = config, model_type
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
        self.prior = config.prior if model_type is ModelType.T2AV else None
        if self.prior is not None:
            self.prior_embedding = FeedForward(self.prior.channels, dim, dim)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.ffn_dim,
                config.num_heads,
                qk_norm=config.qk_norm,
                cross_attn_norm=config.cross_attn_norm,
                has_base=model_type.has_video or not config.dual_ffn,
                has_audio=self.has_audio_ffn,
                synchroniser=self._synchroniser_layer(),
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
        """Velocity x1 - x0 of noisy latents, float32, in the shapes of ``latents``.

        Args:
            latents: x_t; exactly the modalities of this network.
            t: [B], one timestep in [0, 1] per sample; or LatentTimes, one per latent frame.
            text: [B, text_len, text_dim] hidden states; with priors [B, prior tokens + text_len, text_dim], of which the first are the
                prior tokens in their first channels.
            text_mask: zero for padding, as long as ``text``.
            num_video_latents: for audio-only networks, the number of latent frames that the audio spans; the original uses
                (n - 1) // 4 + 1 for a clip of n frames. Networks with video take it from their latents.

        Raises ValueError for missing or surplus modalities, for sizes that do not fit the patches or the text length, and for
        times that do not fit the latents or differ within a patch.
        """
        grid = self.token_grid(latents, num_video_latents)
        times, frames = token_times(t, latents, grid)
        e = self.time_embedding(sinusoid(times, self.config.freq_dim))
        x = self._embed_latents(latents)
        priors, text, text_mask = self._split_text(text, text_mask)
        text, text_mask, bias = merge_padding(text, text_mask)
        context = Context(self._embed_text(text, text_mask, x.dtype), None if bias is None else bias.to(x.dtype))
        added = self._added_inputs(priors, grid, x)
        modulation = self._modulation(e, x.dtype, frames)
        rotary = rotary_table(grid, self.config.positions, self.config.dim // self.config.num_heads, x.device)
        mode = self.checkpointing_mode(x.shape[1])
        for block in self.blocks:
            x = run_block(block, mode, x, modulation, context, rotary, grid.num_video, added)
        return self._read_out(x, e, frames, grid)

    def adapter_targets(self) -> AdapterTargets:
        """See :class:`VelocityNetwork`: those of :data:`ADAPTED` and :data:`ADAPTED_ADDED` that the blocks have."""
        modules = {name for name, _ in self.blocks[0].named_modules()}
        names = tuple(name for name in (*ADAPTED, *ADAPTED_ADDED) if name in modules)
        return AdapterTargets(names, len(self.blocks) * len(names))

    def repeated_blocks(self) -> Iterable[nn.Module]:
        """The blocks."""
        return self.blocks

    def token_grid(self, latents: Latents, num_video_latents: int | None = None) -> TokenGrid:
        """Number of tokens along each axis of ``latents``. Raises ValueError as :meth:`forward` does for latents."""
        _check_present("video", latents.video, self.model_type.has_video)
        _check_present("audio", latents.audio, self.model_type.has_audio)
        audio = (0, 0) if latents.audio is None else _num_patches(latents.audio, self.config.audio_patch_size)
        if latents.video is not None:
            return TokenGrid(*_num_patches(latents.video, self.config.patch_size), *audio)
        if num_video_latents is None:
            raise ValueError("an audio-only network needs num_video_latents: (frames of the clip - 1) // 4 + 1")
        return TokenGrid(num_video_latents, 0, 0, *audio)

    def _modulation(self, e: Tensor, dtype: torch.dtype, frames: Tensor | None) -> Modulation:
        """Modulation of all blocks from e float32 [B, F, d]: projected in float32, returned in ``dtype``."""
        base = self.time_projection(e).unflatten(2, (6, -1)).to(dtype)
        if not self.has_audio_ffn:
            return Modulation(base, None, frames)
        return Modulation(base, self.audio_time_projection(e).unflatten(2, (3, -1)).to(dtype), frames)

    def _synchroniser_layer(self) -> nn.Module | None:
        """A new added layer. Networks of one modality have none, because there is nothing to synchronise."""
        config = self.config
        if self.model_type is not ModelType.T2AV:
            return None
        norms = {"qk_norm": config.qk_norm, "has_norm": config.cross_attn_norm}
        return synchroniser_layer(config.synchroniser, config.dim, config.num_heads, **norms)

    def _added_inputs(self, priors: Tensor | None, grid: TokenGrid, x: Tensor) -> SynchroniserInputs | None:
        """Inputs of the added layers; ``priors`` [B, K, text_dim]."""
        if self.prior is not None:
            assert priors is not None
            tokens = self.prior_embedding(priors[..., : self.prior.channels].to(x.dtype))
            spatial, temporal = tokens.split((self.prior.spatial_tokens, self.prior.temporal_tokens), dim=1)
            return SynchroniserInputs(grid.num_video, spatial, temporal)
        if self.model_type is ModelType.T2AV and self.config.synchroniser.has_frame_attention:
            return SynchroniserInputs(grid.num_video, same_time=same_time(grid, x.device))
        return None

    def _split_text(self, text: Tensor, text_mask: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Prior tokens (None for a network without), states of the text, and their mask. Raises ValueError for another length."""
        if text.shape[1] != self.config.num_states:
            raise ValueError(f"text must be padded to {self.config.num_states} positions, found {text.shape[1]}")
        num = self.config.num_states - self.config.text_len
        return (text[:, :num] if num else None), text[:, num:], text_mask[:, num:]

    def _embed_text(self, text: Tensor, text_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """States [B, L, text_dim], mask [B, L] -> context [B, L, d]; masked states become zeros, as in the original."""
        unpadded = text.masked_fill((text_mask == 0).unsqueeze(-1), 0)
        return self.text_embedding(unpadded.to(dtype))

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
        video_frames, audio_frames = split_frames(frames, grid.num_video)
        if self.model_type.has_video:
            cells = (grid.video_frames, grid.video_rows, grid.video_columns)
            video = unpatchify(self.head(x[:, : grid.num_video], e, video_frames), cells, self.config.patch_size)
        if self.model_type.has_audio:
            steps = (grid.audio_steps, grid.audio_rows)
            velocity = self.audio_head(x[:, grid.num_video :], e, audio_frames)
            audio = unpatchify(velocity, steps, self.config.audio_patch_size)
        return Latents(video, audio)


def _check_present(name: str, latent: Tensor | None, is_required: bool) -> None:
    if (latent is not None) != is_required:
        raise ValueError(
            f"this network needs {name} latents" if is_required else f"this network has no {name}; pass {name}=None"
        )


def _num_patches(latent: Tensor, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis of [B, C, *sizes]. Raises ValueError if a size is not a multiple of its patch."""
    sizes = latent.shape[2:]
    if len(sizes) != len(patch) or any(size % step for size, step in zip(sizes, patch, strict=True)):
        raise ValueError(f"latents of size {tuple(sizes)} cannot be cut into patches of {patch}")
    return tuple(size // step for size, step in zip(sizes, patch, strict=True))
