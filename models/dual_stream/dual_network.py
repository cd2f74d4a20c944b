"""JavisDiT v0.1: two streams of spatial and temporal self-attention, synchrony priors, and cross-attention between the streams.

Parameter names, shapes and order are those of the released weights. The raw output has twice the input channels, of which the
first half is data − noise at times 0 to 1000 (:meth:`DualStreamNetwork.predict`); :meth:`DualStreamNetwork.velocity` returns the
product's velocity, noise − data, for times 0 to 1, and so does :meth:`DualStreamNetwork.forward`, which takes the loop's arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from avpref.models.bases.velocity_network import AdapterTargets, VelocityNetwork
from avpref.models.conditioning import LatentTimes
from avpref.models.dual_stream.dual_config import DualStreamConfig, PriorContext, PriorInjection
from avpref.models.dual_stream.dual_inputs import DualStreamInputs, TextLayout, network_times, picture_size_px
from avpref.models.dual_stream.stream_attention import RotaryEmbedding
from avpref.models.dual_stream.stream_blocks import BridgeBlock, FinalLayer, PriorBlock, SelfBlock
from avpref.models.dual_stream.stream_embeddings import (
    CaptionEmbedding,
    PatchEmbedding,
    ScalarEmbedding,
    frequency_positions,
    grid_positions,
    unpatched,
)
from avpref.models.embeddings import TIMESTEP_SCALE
from avpref.models.flow import Latents
from avpref.models.recomputation import run_block

ADAPTED = (
    *("attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.kv_linear", "cross_attn.proj", "mlp.fc1", "mlp.fc2"),
    *(f"{kind}_cross_attn.{layer}" for kind in ("spatial", "temporal") for layer in ("q_linear", "kv_linear", "proj")),
    *(f"cross_attn.{part}_proj" for part in ("m1", "m2", "values_m1", "values_m2", "out_m1", "out_m2")),
)
"""Adapted linear layers: all of all blocks, 50 of one depth. See docs/decisions/0066-javisdit-v01-as-a-base-model.md."""

Rows = Tensor


@dataclass(frozen=True, eq=False)
class _Times:
    """Embeddings [B, d] of time t and of time 0 (with masks), and modulation rows [B, F or 1, 6 and 9, d] of both streams."""

    now: Tensor
    zero: Tensor | None
    video_rows: Rows
    audio_rows: Rows
    video_prior_rows: Rows | None
    audio_prior_rows: Rows | None


class DualStreamNetwork(VelocityNetwork):
    """The network; without video (``has_video=False``) it is the audio network of stage 1, whose video input is ignored."""

    def __init__(self, config: DualStreamConfig) -> None:
        super().__init__()
        self.config = config
        dim, depth = config.hidden_size, config.depth
        self.rope = RotaryEmbedding(config.head_dim)
        self.x_embedder = PatchEmbedding(config.in_channels, dim, config.patch_size)
        self.t_embedder, self.fps_embedder = ScalarEmbedding(dim), ScalarEmbedding(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbedding(config.caption_channels, dim, config.model_max_length)
        if config.has_video:
            self.spatial_blocks = _self_blocks(config, is_temporal=False)
            self.temporal_blocks = _self_blocks(config, is_temporal=True)
        self.final_layer = FinalLayer(dim, math.prod(config.patch_size) * 2 * config.in_channels)
        self.ax_embedder = PatchEmbedding(config.audio_in_channels, dim, config.audio_patch_size)
        self.audio_y_embedder = CaptionEmbedding(config.caption_channels, dim, config.model_max_length)
        if config.has_video:
            self.st_t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 9 * dim))
            self.st_prior_embedder = CaptionEmbedding(config.st_prior_channel, dim, config.num_priors)
        self.audio_spatial_blocks = _self_blocks(config, is_temporal=False)
        self.audio_temporal_blocks = _self_blocks(config, is_temporal=True)
        if config.has_video:
            self.video_st_prior_blocks = nn.ModuleList(PriorBlock(config) for _ in range(depth))
            self.audio_st_prior_blocks = nn.ModuleList(PriorBlock(config) for _ in range(depth))
            self.va_cross_blocks = nn.ModuleList(BridgeBlock(config) for _ in range(depth))
        self.audio_final_layer = FinalLayer(dim, math.prod(config.audio_patch_size) * 2 * config.audio_in_channels)

    def forward(
        self,
        latents: Latents,
        t: Tensor | LatentTimes,
        text: Tensor,
        text_mask: Tensor,
        *,
        is_paired: bool = False,
        dropped: Tensor | None = None,
    ) -> Latents:
        """See :class:`avpref.models.bases.velocity_network.VelocityNetwork`.

        Args:
            latents: x_t, video [B, C, T, h, w] and audio [B, C, L, M].
            t: [B] in [0, 1], or LatentTimes that are 0 for known latents and otherwise one time per row.
            text: [B, rows, C], laid out as :class:`avpref.models.dual_stream.dual_inputs.TextLayout` says.
            text_mask: [B, rows]; a row without any text has the null states.
            is_paired: rows i and B / 2 + i belong together, with text and without, as guidance needs them. Null texts then have the
                length of their partner's text, and with ``prior_context: batch`` both rows attend to the priors of both.
            dropped: [B, 3], true where training puts the null states in the place of the video stream's text, of the audio stream's
                text and of the priors; a null text keeps the length of the text.

        Raises ValueError for times that the network cannot express.
        """
        times = network_times(t, latents)
        inputs = self._inputs(latents, text, text_mask, is_paired)
        if dropped is not None:
            inputs = self._without(inputs, dropped)
        masked = replace(inputs, video_mask=times.video_mask, audio_mask=times.audio_mask)
        return self.velocity(latents, times.t, masked)

    def velocity(self, x: Latents, t: Tensor, inputs: DualStreamInputs) -> Latents:
        """Velocity noise − data of ``x`` at ``t`` [B] in [0, 1], float32 in the shapes of ``x``; None for an absent modality.

        Raises ValueError for latents of another kind than the network's.
        """
        raw = self.predict(x, t * TIMESTEP_SCALE, inputs)
        halves = (None if track is None else -track.chunk(2, dim=1)[0] for track in raw)
        return Latents(*halves)

    def predict(self, x: Latents, t: Tensor, inputs: DualStreamInputs) -> Latents:
        """The raw output for times 0 to 1000, float32: video [B, 2C, T, h, w] and audio [B, 2C, L, M]; see the module."""
        if x.audio is None or (x.video is None and self.config.has_video):
            raise ValueError("a dual-stream network needs latents of audio, and of video unless it has no video stream")
        dtype = self._dtype
        audio = self._audio_tokens(x.audio.to(dtype))
        if not self.config.has_video:
            times = self._times(t.to(dtype), inputs, audio.shape[:2], None)
            return Latents(None, self._audio_alone(audio, times, inputs, x.audio))
        assert x.video is not None
        video = self._video_tokens(x.video.to(dtype), inputs.size_px)
        times = self._times(t.to(dtype), inputs, audio.shape[:2], video.shape[:2])
        video, audio = self._both(video, audio, times, inputs)
        of_video = self.final_layer(video, times.now, times.zero, inputs.video_mask)
        across = -(-x.video.shape[4] // self.config.patch_size[2])
        cells = of_video.unflatten(2, (-1, across))
        frames = unpatched(cells, self.config.patch_size, x.video.shape[2:]).float()
        return Latents(frames, self._finished_audio(audio, times, inputs, x.audio))

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of the weights, in which inputs are processed."""
        return self.x_embedder.proj.weight.dtype

    def null_inputs(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """The states that stand for no text [rows, N, C], no spatial and no temporal prior [rows, K, c]."""
        text, priors = self.y_embedder.y_embedding, self.st_prior_embedder.y_embedding
        spatial, temporal = priors.split([self.config.spatial_prior_len, self.config.temporal_prior_len])
        null_text, null_spatial, null_temporal = (states.expand(rows, -1, -1) for states in (text, spatial, temporal))
        return null_text, null_spatial, null_temporal

    def adapter_targets(self) -> AdapterTargets:
        """See :class:`VelocityNetwork`: those of :data:`ADAPTED` that the blocks have."""
        names = [name for block in self.repeated_blocks() for name, module in block.named_modules() if name in ADAPTED]
        return AdapterTargets(tuple(name for name in ADAPTED if name in set(names)), len(names))

    def repeated_blocks(self) -> Iterable[nn.Module]:
        """The blocks of all kinds, in the order in which a depth runs them."""
        kinds: list[nn.ModuleList] = [self.audio_spatial_blocks, self.audio_temporal_blocks]
        if self.config.has_video:
            kinds = [self.spatial_blocks, self.temporal_blocks, *kinds]
            kinds += [self.video_st_prior_blocks, self.audio_st_prior_blocks, self.va_cross_blocks]
        return [block for depth in zip(*kinds, strict=True) for block in depth]

    def _inputs(self, latents: Latents, text: Tensor, text_mask: Tensor, is_paired: bool) -> DualStreamInputs:
        """Inputs from states of texts, with the null states in rows without a text; see :meth:`forward`."""
        layout, rows = TextLayout.of(self.config), len(text)
        is_null = text_mask.sum(dim=1) == 0
        mask = layout.tokens(text_mask).bool()
        half = rows // 2 if is_paired else 0
        whole = mask.roll(half, dims=0) | is_null.roll(half)[:, None]
        null = self._null_rows(rows)
        states = torch.where(is_null[:, None, None], null[0].to(text), layout.tokens(text))
        own = torch.where(is_null[:, None, None], null[1].to(text), layout.priors(text).tokens)
        spatial, temporal = own.split([self.config.spatial_prior_len, self.config.temporal_prior_len], dim=1)
        if is_paired and self._mixes_priors:
            spatial, temporal = (torch.cat([part, part.roll(half, dims=0)], dim=1) for part in (spatial, temporal))
        height, width = (latents.video.shape[3], latents.video.shape[4]) if latents.video is not None else (0, 0)
        return DualStreamInputs(
            text=states,
            text_mask=torch.where(is_null[:, None], whole, mask),
            spatial_prior=spatial,
            temporal_prior=temporal,
            fps=torch.full((1,), self.config.fps_hz, device=text.device),
            size_px=picture_size_px(height, width),
            own_priors=True,
        )

    def _without(self, inputs: DualStreamInputs, dropped: Tensor) -> DualStreamInputs:
        """``inputs`` with the null states in the place of what is ``dropped`` [B, 3]; see :meth:`forward`."""
        video, audio, prior = (column[:, None, None] for column in dropped.bool().unbind(1))
        text, priors = (states.to(inputs.text) for states in self._null_rows(len(inputs.text)))
        spatial, temporal = priors.split([self.config.spatial_prior_len, self.config.temporal_prior_len], dim=1)
        return replace(
            inputs,
            text=torch.where(video, text, inputs.text),
            audio_text=torch.where(audio, text, inputs.text),
            spatial_prior=torch.where(prior, spatial, inputs.spatial_prior),
            temporal_prior=torch.where(prior, temporal, inputs.temporal_prior),
        )

    @property
    def _mixes_priors(self) -> bool:
        """Whether tokens attend to the priors of several rows."""
        config = self.config
        return config.prior_context == PriorContext.BATCH and config.injection == PriorInjection.CROSS_ATTN

    def _null_rows(self, rows: int) -> tuple[Tensor, Tensor]:
        """The null states of texts [rows, N, C] and of both kinds of priors [rows, K, c]; zeros where there are no priors."""
        text = self.y_embedder.y_embedding.expand(rows, -1, -1)
        if not self.config.has_video:
            return text, text.new_zeros(rows, self.config.num_priors, self.config.st_prior_channel)
        return text, self.st_prior_embedder.y_embedding.expand(rows, -1, -1)

    def _both(self, video: Tensor, audio: Tensor, times: _Times, inputs: DualStreamInputs) -> tuple[Tensor, Tensor]:
        text, audio_text, mask = self._texts(inputs)
        spatial, temporal = self._priors(inputs)
        assert times.video_prior_rows is not None and times.audio_prior_rows is not None

        def run(depth: int, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
            video = self.spatial_blocks[depth](video, times.video_rows, text, mask, self.rope)
            video = self.temporal_blocks[depth](video, times.video_rows, text, mask, self.rope)
            audio = self.audio_spatial_blocks[depth](audio, times.audio_rows, audio_text, mask, self.rope)
            audio = self.audio_temporal_blocks[depth](audio, times.audio_rows, audio_text, mask, self.rope)
            video = self.video_st_prior_blocks[depth](video, times.video_prior_rows, spatial, temporal)
            audio = self.audio_st_prior_blocks[depth](audio, times.audio_prior_rows, spatial, temporal)
            bridged: tuple[Tensor, Tensor] = self.va_cross_blocks[depth](video, audio)
            return bridged

        mode = self.checkpointing_mode(video.shape[1] * video.shape[2] + audio.shape[1] * audio.shape[2])
        for depth in range(self.config.depth):
            video, audio = run_block(partial(run, depth), mode, video, audio)
        return video, audio

    def _audio_alone(self, audio: Tensor, times: _Times, inputs: DualStreamInputs, latents: Tensor) -> Tensor:
        _, text, mask = self._texts(inputs)
        mode = self.checkpointing_mode(audio.shape[1] * audio.shape[2])
        for depth in range(self.config.depth):
            for blocks in (self.audio_spatial_blocks, self.audio_temporal_blocks):
                audio = run_block(blocks[depth], mode, audio, times.audio_rows, text, mask, self.rope)
        return self._finished_audio(audio, times, inputs, latents)

    def _finished_audio(self, audio: Tensor, times: _Times, inputs: DualStreamInputs, latents: Tensor) -> Tensor:
        mask = None if inputs.audio_mask is None else inputs.audio_mask[:, :: self.config.audio_patch_size[0]]
        tokens = self.audio_final_layer(audio, times.now, times.zero, mask)
        return unpatched(tokens, self.config.audio_patch_size, latents.shape[2:]).float()

    def _video_tokens(self, latents: Tensor, size_px: tuple[float, float]) -> Tensor:
        """Tokens [B, T, H · W, d] with positions."""
        tokens = self.x_embedder(latents)
        grid = tokens.shape[2], tokens.shape[3]
        positions = grid_positions(self.config.hidden_size, grid, size_px, self.config.input_sq_size)
        return tokens.flatten(2, 3) + positions.to(tokens)

    def _audio_tokens(self, latents: Tensor) -> Tensor:
        """Tokens [B, R, M, d] with positions along the frequencies."""
        tokens: Tensor = self.ax_embedder(latents)
        return tokens + frequency_positions(self.config.hidden_size, tokens.shape[2]).to(tokens)

    def _times(
        self, t: Tensor, inputs: DualStreamInputs, audio_shape: torch.Size, video_shape: torch.Size | None
    ) -> _Times:
        fps = self.fps_embedder(_tiled(inputs.fps.to(t), len(t)))
        now = self.t_embedder(t) + fps
        has_masks = inputs.video_mask is not None or inputs.audio_mask is not None
        zero = self.t_embedder(torch.zeros_like(t)) + fps if has_masks else None
        audio_mask = None if inputs.audio_mask is None else inputs.audio_mask[:, :: self.config.audio_patch_size[0]]
        blocks = [self.t_block, *([self.st_t_block] if video_shape is not None else [])]
        rows = [(_rows(block, now, zero, inputs.video_mask), _rows(block, now, zero, audio_mask)) for block in blocks]
        priors = rows[1] if len(rows) > 1 else (None, None)
        return _Times(now, zero, rows[0][0], rows[0][1], priors[0], priors[1])

    def _texts(self, inputs: DualStreamInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Embedded text of the video stream and of the audio stream, and the tokens that are real [B, N]."""
        states = inputs.text.to(self._dtype)
        audio_states = states if inputs.audio_text is None else inputs.audio_text.to(self._dtype)
        mask = _tiled(inputs.text_mask.bool(), len(states))
        return self.y_embedder(states), self.audio_y_embedder(audio_states), mask

    def _priors(self, inputs: DualStreamInputs) -> tuple[Tensor, Tensor]:
        """Embedded spatial and temporal priors: of each row, or of all rows as one context (see :class:`PriorContext`)."""
        dtype = self._dtype
        lengths = [inputs.spatial_prior.shape[1], inputs.temporal_prior.shape[1]]
        both = torch.cat([inputs.spatial_prior, inputs.temporal_prior], dim=1).to(dtype)
        spatial, temporal = self.st_prior_embedder(both).split(lengths, dim=1)
        if self._mixes_priors and not inputs.own_priors:
            return spatial.flatten(0, 1)[None], temporal.flatten(0, 1)[None]
        return spatial, temporal


def _self_blocks(config: DualStreamConfig, is_temporal: bool) -> nn.ModuleList:
    return nn.ModuleList(SelfBlock(config, is_temporal) for _ in range(config.depth))


def _rows(block: nn.Module, now: Tensor, zero: Tensor | None, mask: Tensor | None) -> Rows:
    """Modulation rows [B, F, n, d], of time t where ``mask`` [B, F] is True and of time 0 elsewhere; without a mask [B, 1, n, d]."""
    dim = now.shape[-1]
    rows = block(now).unflatten(-1, (-1, dim))[:, None]
    if mask is None or zero is None:
        return rows
    return torch.where(mask[:, :, None, None], rows, block(zero).unflatten(-1, (-1, dim))[:, None])


def _tiled(rows: Tensor, num: int) -> Tensor:
    """``rows`` repeated as a whole until there are ``num``. Raises ValueError where that is not possible."""
    if num % len(rows):
        raise ValueError(f"{len(rows)} rows cannot be repeated to {num}")
    return rows.repeat(num // len(rows), *[1] * (rows.ndim - 1))
