"""Rotary positions of video and audio tokens (TA-RoPE, JavisDiT++ eq. 4) and the rotation itself.

Every token has a position (t, h, w). The position of a video token is its grid cell. Audio tokens (time step t, mel row m) get
positions by one of five schemes, which differ in how audio time maps to the video's latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import assert_never

import torch
from torch import Tensor

THETA = 10000.0


class AudioPositions(StrEnum):
    """Position schemes of audio tokens, under the original's names (``audio_pe_type``); the last is the paper's printed formula."""

    VANILLA = "vanilla"
    INTERPOLATE = "interpolate"
    INTERLEAVE = "interleave"
    INTERLEAVE_OFFSET = "interleave_offset"
    INTERLEAVE_OFFSET_ROUNDED = "interleave_offset_rounded"


@dataclass(frozen=True)
class TokenGrid:
    """Tokens after patching: video frames x rows x columns, audio time steps x mel rows.

    Without video, rows and columns are 0 and ``video_frames`` is the number of latent frames that the audio spans.
    """

    video_frames: int
    video_rows: int
    video_columns: int
    audio_steps: int
    audio_rows: int

    @property
    def num_video(self) -> int:
        """Video tokens in the sequence."""
        return self.video_frames * self.video_rows * self.video_columns

    @property
    def num_audio(self) -> int:
        """Audio tokens in the sequence."""
        return self.audio_steps * self.audio_rows


def video_positions(grid: TokenGrid) -> Tensor:
    """Positions (t, h, w) of the video tokens in (t, h, w) order: float64 [num_video, 3]."""
    axes = (
        torch.arange(size, dtype=torch.float64) for size in (grid.video_frames, grid.video_rows, grid.video_columns)
    )
    return torch.cartesian_prod(*axes).view(-1, 3)


def audio_positions(grid: TokenGrid, scheme: AudioPositions) -> Tensor:
    """Positions of the audio tokens in (time, mel row) order under ``scheme``: float64 [num_audio, 3]."""
    match scheme:
        case AudioPositions.VANILLA:
            return _vanilla(grid)
        case AudioPositions.INTERPOLATE:
            return _interpolate(grid)
        case AudioPositions.INTERLEAVE:
            return _interleave(grid)
        case AudioPositions.INTERLEAVE_OFFSET:
            return _interleave_offset(grid)
        case AudioPositions.INTERLEAVE_OFFSET_ROUNDED:
            return _interleave_offset_rounded(grid)
        case _:
            assert_never(scheme)


def _steps(grid: TokenGrid) -> Tensor:
    return torch.arange(grid.audio_steps, dtype=torch.float64)


def _stretched(grid: TokenGrid) -> Tensor:
    """Audio steps mapped linearly to the video's latent frames, ends included: 0 .. T_v - 1."""
    return torch.linspace(0, grid.video_frames - 1, grid.audio_steps, dtype=torch.float64)


def _grid_positions(grid: TokenGrid, first: Tensor, second: Tensor, third_offset: int = 0) -> Tensor:
    """Rows (first[t], second[t], third_offset + m) for every audio step t and mel row m."""
    rows = torch.arange(grid.audio_rows, dtype=torch.float64) + third_offset
    columns = (first[:, None], second[:, None], rows[None, :])
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1).reshape(-1, 3)


def _vanilla(grid: TokenGrid) -> Tensor:
    """(t, t, m)."""
    return _grid_positions(grid, _steps(grid), _steps(grid))


def _interpolate(grid: TokenGrid) -> Tensor:
    """(λ, λ, m) with λ = the step's fractional latent frame."""
    return _grid_positions(grid, _stretched(grid), _stretched(grid))


def _interleave(grid: TokenGrid) -> Tensor:
    """(⌈λ⌉, t, m)."""
    return _grid_positions(grid, _stretched(grid).ceil(), _steps(grid))


def _interleave_offset(grid: TokenGrid) -> Tensor:
    """(⌈λ⌉, H + t, W + m): no audio position equals a video position. The released weights use this scheme."""
    return _grid_positions(grid, _stretched(grid).ceil(), _steps(grid) + grid.video_rows, grid.video_columns)


def _interleave_offset_rounded(grid: TokenGrid) -> Tensor:
    """(round(t T_v / T_a), H + t, W + m): eq. 4 as printed; may exceed the last latent frame by one."""
    frames = (_steps(grid) * grid.video_frames / grid.audio_steps).round()
    return _grid_positions(grid, frames, _steps(grid) + grid.video_rows, grid.video_columns)


def rotary_angles(positions: Tensor, head_dim: int) -> Tensor:
    """Angles position x frequency: float64 [tokens, head_dim / 2] from positions float64 [tokens, 3].

    The head's dimensions split into three bands for t, h, w, the two spatial ones 2 * (head_dim // 6) wide each and the
    temporal band the rest; within a band of width D the frequencies are 10000^(-2j/D).
    """
    spatial = 2 * (head_dim // 6)
    bands = (head_dim - 2 * spatial, spatial, spatial)
    angles = [positions[:, axis : axis + 1] * _frequencies(width) for axis, width in enumerate(bands)]
    return torch.cat(angles, dim=1)


def _frequencies(width: int) -> Tensor:
    return THETA ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)


@lru_cache(maxsize=64)
def rotary_table(grid: TokenGrid, scheme: AudioPositions, head_dim: int, device: torch.device) -> Tensor:
    """(cos, sin) of all angles of [video tokens, audio tokens]: float32 [tokens, 1, head_dim / 2, 2], computed in float64.

    Cached per grid, scheme, head size and device. Built outside inference mode, so that a table built during sampling can be
    used in training.
    """
    with torch.inference_mode(False):
        positions = torch.cat([video_positions(grid), audio_positions(grid, scheme)])
        angles = rotary_angles(positions, head_dim).unsqueeze(1)
        return torch.stack([angles.cos(), angles.sin()], dim=-1).float().to(device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate adjacent pairs of x [B, tokens, heads, head_dim] in float32; same shape and dtype.

    Uses one complex product; in compiled graphs the same in real numbers, because the compiler lacks complex kernels.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    turn = _turn_real if torch.compiler.is_compiling() else _turn_complex
    return turn(pairs, table).flatten(-2).to(x.dtype)


def _turn_complex(pairs: Tensor, table: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))


def _turn_real(pairs: Tensor, table: Tensor) -> Tensor:
    (even, odd), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
