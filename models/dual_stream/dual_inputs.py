"""Inputs of the dual-stream network, and text and priors as one tensor of states, which is all that the loop knows of a text.

The states of one text are rows of ``channels`` values: first the rows of its priors, then one row per token. A text without any row is no
text; the network puts its null states in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.models.conditioning import LatentTimes
from avpref.models.dual_stream.dual_config import DualStreamConfig
from avpref.models.flow import Latents

CELL_PX = 8
"""Pixels of a latent cell, each way."""
NOMINAL_SIDES_PX = {424: 426, 848: 854}
"""Sides of the published sizes 240 x 426 and 480 x 854, whose pictures lose the rest of a cell: decoded side -> published side."""
PARTS = 3
"""Numbers per channel of a prior token: mean, log variance, drawn value."""


@dataclass(frozen=True, eq=False)
class DualStreamInputs:
    """Inputs of a network call besides latents and times.

    ``text`` [B, N, C] and ``text_mask`` [B or fewer, N] (1 for real tokens; fewer rows are repeated, so the null text is cut to the
    prompt's length as released); ``spatial_prior`` and ``temporal_prior`` [B, K, c]; ``fps`` [B or fewer]; ``size_px``: height and
    width of the pictures. ``video_mask`` [B, T] and ``audio_mask`` [B, L]: True where latents are to be generated, False where they
    are known; none: all are generated. With ``own_priors`` a row attends to its own priors, whatever the configuration says. ``audio_text``
    is the text of the audio stream where it differs from that of the video stream.
    """

    text: Tensor
    text_mask: Tensor
    spatial_prior: Tensor
    temporal_prior: Tensor
    fps: Tensor
    size_px: tuple[float, float]
    video_mask: Tensor | None = None
    audio_mask: Tensor | None = None
    own_priors: bool = False
    audio_text: Tensor | None = None


class PriorStates(NamedTuple):
    """Prior tokens of B texts [B, K of both kinds, c]: mean and log variance of their distribution, and the tokens drawn from it."""

    mean: Tensor
    log_variance: Tensor
    tokens: Tensor


class NetworkTimes(NamedTuple):
    """Times [B] in [0, 1], and masks [B, T] and [B, L] of the latents that are to be generated; no masks: all."""

    t: Tensor
    video_mask: Tensor | None
    audio_mask: Tensor | None


@dataclass(frozen=True)
class TextLayout:
    """Sizes of the states of one text: width of a row, rows of a text at most, prior tokens and their width."""

    channels: int
    length: int
    num_priors: int
    prior_channels: int

    @classmethod
    def of(cls, config: DualStreamConfig) -> TextLayout:
        """The layout of a network's texts."""
        return cls(config.caption_channels, config.model_max_length, config.num_priors, config.st_prior_channel)

    @property
    def num_prior_rows(self) -> int:
        """Rows that hold the priors."""
        return -(-PARTS * self.num_priors * self.prior_channels // self.channels)

    @property
    def num_rows(self) -> int:
        """Rows of a padded text."""
        return self.num_prior_rows + self.length

    def packed(self, text: Tensor, priors: PriorStates) -> Tensor:
        """States [B, prior rows + N, C] of token states ``text`` [B, N, C] and ``priors``, in the text's dtype."""
        flat = torch.stack(priors, dim=1).flatten(1).to(text)
        padded = F.pad(flat, (0, self.num_prior_rows * self.channels - flat.shape[1]))
        return torch.cat([padded.unflatten(1, (self.num_prior_rows, self.channels)), text], dim=1)

    def tokens(self, states: Tensor) -> Tensor:
        """The rows of the tokens: [B, length, C] of states, or [B, length] of their mask."""
        return states[:, self.num_prior_rows :]

    def priors(self, states: Tensor) -> PriorStates:
        """The priors of ``states`` [B, rows, C]."""
        flat = states[:, : self.num_prior_rows].flatten(1)[:, : PARTS * self.num_priors * self.prior_channels]
        return PriorStates(*flat.unflatten(1, (PARTS, self.num_priors, self.prior_channels)).unbind(1))

    def redrawn(self, states: Tensor, noise: Tensor) -> Tensor:
        """``states`` whose prior tokens are drawn again with ``noise`` N(0, 1) [B, K of both kinds, c]."""
        priors = self.priors(states)
        tokens = priors.mean + (0.5 * priors.log_variance).exp() * noise.to(states)
        return self.packed(self.tokens(states), priors._replace(tokens=tokens))


def network_times(t: Tensor | LatentTimes, latents: Latents) -> NetworkTimes:
    """The one time of each row, and masks of the latents whose time is not 0; for ``t`` [B] no masks.

    Raises ValueError for times of another shape, and for a row with two times other than 0.
    """
    if isinstance(t, Tensor):
        return NetworkTimes(t, None, None)
    parts = []
    for name, times, track in (("video", t.video, latents.video), ("audio", t.audio, latents.audio)):
        expected = None if track is None else (track.shape[0], track.shape[2])
        shape = None if times is None else tuple(times.shape)
        if shape != expected:
            raise ValueError(f"times of {name} latents must be of shape {expected}, found {shape}")
        if times is not None:
            parts.append(times)
    joined = torch.cat(parts, dim=1)
    row = joined.amax(dim=1)
    if not torch.all((joined == 0) | (joined == row[:, None])):
        raise ValueError("a dual-stream network has one time per row, and 0 for latents that are known")
    return NetworkTimes(row, *(None if times is None else times > 0 for times in t))


def picture_size_px(rows: int, columns: int) -> tuple[float, float]:
    """Height and width by which positions and times are scaled, of pictures of ``rows`` x ``columns`` latent cells.

    Published sizes that are no whole number of cells count in full, as in the released code.
    """
    height, width = rows * CELL_PX, columns * CELL_PX
    return float(NOMINAL_SIDES_PX.get(height, height)), float(NOMINAL_SIDES_PX.get(width, width))
