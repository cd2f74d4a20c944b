"""The layers that the synchronisers ``st_prior`` and ``frame_attention`` add to every block, after the attention to the text.

Both are residual attentions with a norm before them and neither modulation nor gate, like the block's attention to the text. Their
output projections start at zero, so that a network with added layers starts as the same function.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avpref.models.blocks import EPS, CrossAttention
from avpref.models.positions import TokenGrid
from avpref.models.synchronisers.synchroniser import Synchroniser


class SynchroniserInputs(NamedTuple):
    """Inputs of the added layers of all blocks, computed once per call of the network.

    ``spatial`` [B, K, d] and ``temporal`` [B, K, d]: embedded prior tokens. ``same_time`` [video tokens, audio tokens]: True where
    both are of one time. ``num_video``: video tokens, which come first in the sequence. None where a layer has no use for it.
    """

    num_video: int
    spatial: Tensor | None = None
    temporal: Tensor | None = None
    same_time: Tensor | None = None


class PriorAttention(nn.Module):
    """All tokens attend to the spatial priors of their row, then to the temporal ones."""

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool, has_norm: bool) -> None:
        super().__init__()
        self.norm_spatial, self.norm_temporal = _norm(dim, has_norm), _norm(dim, has_norm)
        self.spatial = CrossAttention(dim, num_heads, qk_norm)
        self.temporal = CrossAttention(dim, num_heads, qk_norm)

    def forward(self, x: Tensor, inputs: SynchroniserInputs) -> Tensor:
        """x [B, N, d] -> [B, N, d]."""
        x = x + self.spatial(self.norm_spatial(x), inputs.spatial)
        x = x + self.temporal(self.norm_temporal(x), inputs.temporal)
        return x


class FrameAttention(nn.Module):
    """Video tokens attend to the audio tokens of their time, and audio tokens to the video tokens of theirs, without rotation."""

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool, has_norm: bool) -> None:
        super().__init__()
        self.norm = _norm(dim, has_norm)
        self.of_video = CrossAttention(dim, num_heads, qk_norm)
        self.of_audio = CrossAttention(dim, num_heads, qk_norm)

    def forward(self, x: Tensor, inputs: SynchroniserInputs) -> Tensor:
        """x [B, N, d] with the video tokens first -> [B, N, d]."""
        assert inputs.same_time is not None
        video, audio = self.norm(x).split((inputs.num_video, x.shape[1] - inputs.num_video), dim=1)
        of_video = self.of_video(video, audio, inputs.same_time)
        of_audio = self.of_audio(audio, video, inputs.same_time.t())
        return x + torch.cat([of_video, of_audio], dim=1)


def synchroniser_layer(
    kind: Synchroniser, dim: int, num_heads: int, *, qk_norm: bool, has_norm: bool
) -> nn.Module | None:
    """The layer that ``kind`` adds to a block of a network with video and audio; None where it adds none."""
    if kind.has_priors:
        return PriorAttention(dim, num_heads, qk_norm=qk_norm, has_norm=has_norm)
    if kind.has_frame_attention:
        return FrameAttention(dim, num_heads, qk_norm=qk_norm, has_norm=has_norm)
    return None


@lru_cache(maxsize=64)
def same_time(grid: TokenGrid, device: torch.device) -> Tensor:
    """Pairs of a video and an audio token whose times overlap: bool [num_video, num_audio].

    Latent frame f of T covers the part f/T to (f + 1)/T of the clip, audio step s of R the part s/R to (s + 1)/R. Every token has at
    least one partner. Where T divides R, a frame has R/T steps and a step one frame. Built outside inference mode, as rotary tables are.
    """
    with torch.inference_mode(False):
        num_frames, num_steps = grid.video_frames, grid.audio_steps
        frames, steps = torch.arange(num_frames)[:, None], torch.arange(num_steps)[None]
        overlap = (steps * num_frames < (frames + 1) * num_steps) & (frames * num_steps < (steps + 1) * num_frames)
        places = grid.video_rows * grid.video_columns
        return overlap.repeat_interleave(places, 0).repeat_interleave(grid.audio_rows, 1).to(device)


def _norm(dim: int, has_norm: bool) -> nn.Module:
    return nn.LayerNorm(dim, eps=EPS) if has_norm else nn.Identity()
