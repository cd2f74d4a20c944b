"""The transformer of LTX-2 behind the product's conventions: t in [0, 1], velocity noise - data, latents in their own shapes.

This is the one place that knows diffusers' arguments. Sampling, policy and reference all call it, so one convention about the
noise level in attention between modalities and about the mark of the first latent frame holds for all three.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avpref.config.training_settings import CheckpointingMode
from avpref.models.bases.velocity_network import AdapterTargets, VelocityNetwork
from avpref.models.conditioning import LatentTimes
from avpref.models.flow import Latents
from avpref.models.ltx2.ltx_grid import FPS_HZ, pack_audio, pack_video, unpack_audio, unpack_video
from avpref.models.ltx2.ltx_lora import TARGETS
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.models.recomputation import run_block

TIMESTEP_SCALE = 1000.0


@dataclass(frozen=True)
class LtxConvention:
    """How the transformer is called.

    ``uses_cross_timestep``: attention between modalities is modulated by the other modality's noise level (2.3, 2.5).
    ``marks_first_frame``: tokens of the first latent frame, which holds one picture, get the embedding of keyframes (2.5).
    """

    uses_cross_timestep: bool
    marks_first_frame: bool

    @classmethod
    def of(cls, version: LtxVersion, name: Literal["diffusers", "lightricks"]) -> LtxConvention:
        """The convention ``name`` of ``version``: only Lightricks' own programs mark the first latent frame of 2.5."""
        traits = version.traits
        return cls(traits.uses_cross_timestep, traits.marks_keyframes and name == "lightricks")


class LtxNetwork(VelocityNetwork):
    """Calls ``transformer``, diffusers' ``LTX2VideoTransformer3DModel``, with latents, times and text states of the product.

    Text states are those of the video stream and of the audio stream side by side, [B, L, ``video_text_dim`` + rest]. Invariant:
    with equal weights, the output is that of diffusers' class for the same tokens, at timesteps 1000 t.
    """

    def __init__(
        self,
        transformer: nn.Module,
        video_text_dim: int,
        convention: LtxConvention,
        fps_hz: float = FPS_HZ,
    ) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self._mode: CheckpointingMode = "none"
        self.video_text_dim, self.convention, self.fps_hz = video_text_dim, convention, fps_hz

    def forward(
        self,
        latents: Latents,
        t: Tensor | LatentTimes,
        text: Tensor,
        text_mask: Tensor,
        *,
        perturbed_blocks: tuple[int, ...] = (),
        isolates_modalities: bool = False,
    ) -> Latents:
        """Velocity x1 - x0 of noisy latents, float32, in the shapes of ``latents``.

        Args:
            latents: x_t, both modalities.
            t: [B], one time in [0, 1] per sample; or LatentTimes, one per latent frame. The noise level of a modality is the largest
                of its times: 0 for a modality that is known entirely.
            text: [B, L, D] states of both streams.
            text_mask: [B, L], zero for padding.
            perturbed_blocks: blocks whose self-attention is replaced by its values (spatio-temporal guidance).
            isolates_modalities: without attention between the modalities (modality guidance).

        Raises ValueError for a missing modality and for times that do not fit the latents.
        """
        if latents.video is None or latents.audio is None:
            raise ValueError("LTX-2 needs latents of both modalities")
        video, audio = latents.video, latents.audio
        self._set_checkpointing(video[0, 0].numel() + audio.shape[2])
        dtype, size = self.transformer.dtype, (video.shape[2], video.shape[3], video.shape[4])
        video_times, audio_times = _per_modality(t, video, audio)
        mask = text_mask.to(torch.int64)
        output, audio_output = self.transformer(
            hidden_states=pack_video(video).to(dtype),
            audio_hidden_states=pack_audio(audio).to(dtype),
            encoder_hidden_states=text[..., : self.video_text_dim].to(dtype),
            audio_encoder_hidden_states=text[..., self.video_text_dim :].to(dtype),
            timestep=_timesteps(video_times, size[1] * size[2]),
            audio_timestep=_timesteps(audio_times, 1),
            sigma=_noise_level(video_times),
            audio_sigma=_noise_level(audio_times),
            encoder_attention_mask=mask,
            audio_encoder_attention_mask=mask,
            num_frames=size[0],
            height=size[1],
            width=size[2],
            fps=self.fps_hz,
            audio_num_frames=audio.shape[2],
            isolate_modalities=isolates_modalities,
            spatio_temporal_guidance_blocks=list(perturbed_blocks) or None,
            use_cross_timestep=self.convention.uses_cross_timestep,
            video_keyframes_mask=self._keyframes(video),
            return_dict=False,
        )
        return Latents(unpack_video(output.float(), size), unpack_audio(audio_output.float(), audio.shape[3]))

    def adapter_targets(self) -> AdapterTargets:
        """See :class:`VelocityNetwork`: :data:`avpref.models.ltx2.ltx_lora.TARGETS` in every block."""
        return AdapterTargets(TARGETS, len(self.blocks) * len(TARGETS))

    def repeated_blocks(self) -> Iterable[nn.Module]:
        """The blocks."""
        return self.blocks

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks."""
        blocks: nn.ModuleList = self.transformer.transformer_blocks
        return blocks

    def _set_checkpointing(self, num_tokens: int) -> None:
        """Tell diffusers' class how blocks are checkpointed for clips of ``num_tokens``."""
        mode = self.checkpointing_mode(num_tokens)
        if mode == self._mode:
            return
        self._mode = mode
        if mode == "none":
            self.transformer.disable_gradient_checkpointing()
        else:
            self.transformer.enable_gradient_checkpointing(lambda block, *inputs: run_block(block, mode, *inputs))

    def _keyframes(self, video: Tensor) -> Tensor | None:
        """Mask [B, N, 1] of the tokens of the first latent frame, or None."""
        if not self.convention.marks_first_frame:
            return None
        mask = video.new_zeros(len(video), 1, *video.shape[2:])
        mask[:, :, 0] = 1
        return pack_video(mask)


def _per_modality(t: Tensor | LatentTimes, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Times [B] or [B, frames] of each modality, float32 in [0, 1]; [B] where all frames share their time."""
    if isinstance(t, Tensor):
        return t.float(), t.float()
    times = []
    for name, frames, latent in (("video", t.video, video), ("audio", t.audio, audio)):
        expected = (latent.shape[0], latent.shape[2])
        if frames is None or tuple(frames.shape) != expected:
            shape = None if frames is None else tuple(frames.shape)
            raise ValueError(f"times of {name} latents must be of shape {expected}, found {shape}")
        shared = frames[:, 0]
        times.append((shared if torch.equal(frames, shared[:, None].expand_as(frames)) else frames).float())
    return times[0], times[1]


def _timesteps(times: Tensor, tokens_per_frame: int) -> Tensor:
    """Timesteps on the transformer's scale: [B], or [B, tokens] from times [B, frames]."""
    scaled = times * TIMESTEP_SCALE
    return scaled if scaled.ndim == 1 else scaled.repeat_interleave(tokens_per_frame, dim=1)


def _noise_level(times: Tensor) -> Tensor:
    """[B]: the largest time of each sample, on the transformer's scale."""
    return (times if times.ndim == 1 else times.amax(dim=1)) * TIMESTEP_SCALE
