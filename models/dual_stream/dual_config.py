"""Sizes of JavisDiT v0.1's dual-stream network, and its two options: how priors are injected, and which priors a row sees."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

TEXT_LENGTH, TEXT_CHANNELS = 300, 4096


class PriorInjection(StrEnum):
    """How the synchrony priors act on tokens (paper v0.1, table 4).

    ``cross_attn``: tokens attend to the prior tokens (released); ``modulate``: stretched priors give scale and shift;
    ``addition``: stretched priors are added.
    """

    CROSS_ATTN = "cross_attn"
    MODULATE = "modulate"
    ADDITION = "addition"


class PriorContext(StrEnum):
    """Which priors the tokens of a row attend to: those of all rows of the batch, as the released code runs, or the row's own.

    The loop calls the network with the rows of many clips, and a clip must not depend on the others. There ``batch`` means the rows of
    one clip in guidance, with and without text, and the row's own priors otherwise: that is the released code with one clip per call.
    """

    BATCH = "batch"
    ROW = "row"


@dataclass(frozen=True)
class DualStreamConfig:
    """Constructor values under the original's names; the defaults are those of the release.

    The network has twice as many output as input channels; the first half is the velocity. ``fps_hz`` is the frame rate of clips, which
    is embedded beside the time. Raises ValueError for sizes that contradict each other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    depth: int = 28
    hidden_size: int = 1152
    num_heads: int = 16
    mlp_ratio: float = 4.0
    in_channels: int = 4
    audio_in_channels: int = 8
    patch_size: tuple[int, int, int] = (1, 2, 2)
    audio_patch_size: tuple[int, int] = (4, 1)
    caption_channels: int = TEXT_CHANNELS
    model_max_length: int = TEXT_LENGTH
    spatial_prior_len: int = 32
    temporal_prior_len: int = 32
    st_prior_channel: int = 128
    input_sq_size: int = 512
    has_video: bool = True
    injection: PriorInjection = PriorInjection.CROSS_ATTN
    prior_context: PriorContext = PriorContext.BATCH
    fps_hz: float = 24.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_dim % 2 or self.num_heads % 2 or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} with {self.num_heads} heads: heads must be even in number and size, and the size "
                "a multiple of 4"
            )

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Width inside the feed-forward layers."""
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def num_priors(self) -> int:
        """Prior tokens of a row, spatial and temporal."""
        return self.spatial_prior_len + self.temporal_prior_len
