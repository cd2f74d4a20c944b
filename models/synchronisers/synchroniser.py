"""The synchronisers of JavisDiT++'s table 3: how audio and video tokens learn of each other's time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LAYER = "synchroniser"
"""Name of the added layer in a block."""
PRIOR_EMBEDDING = "prior_embedding"
_ADDED_PARTS = frozenset({LAYER, PRIOR_EMBEDDING, "prior_embedder"})


class Synchroniser(StrEnum):
    """The rows of table 3 (docs/decisions/0068-synchronisers-of-table-3.md).

    ``none``: audio positions count audio steps and do not depend on the video's (scheme ``vanilla``); ``ta_rope``: the scheme
    ``audio_pe_type``; ``st_prior``: tokens attend to prior tokens of the text; ``frame_attention``: audio and video tokens of one
    time attend to each other. The last two have the positions of ``none``, with ``ta_rope_`` before the name those of ``ta_rope``.
    """

    NONE = "none"
    TA_ROPE = "ta_rope"
    ST_PRIOR = "st_prior"
    FRAME_ATTENTION = "frame_attention"
    TA_ROPE_ST_PRIOR = "ta_rope_st_prior"
    TA_ROPE_FRAME_ATTENTION = "ta_rope_frame_attention"

    @property
    def aligns_positions(self) -> bool:
        """Whether audio positions follow the video's time axis."""
        return self.value.startswith("ta_rope")

    @property
    def has_priors(self) -> bool:
        """Whether every block has cross-attention to prior tokens."""
        return self.value.endswith("st_prior")

    @property
    def has_frame_attention(self) -> bool:
        """Whether every block has attention between the tokens of one time."""
        return self.value.endswith("frame_attention")

    @property
    def adds_layers(self) -> bool:
        """Whether networks have tensors that those of ``ta_rope`` lack."""
        return self.has_priors or self.has_frame_attention

    @property
    def without_layers(self) -> Synchroniser:
        """The synchroniser with the same positions and no added layers."""
        return Synchroniser.TA_ROPE if self.aligns_positions else Synchroniser.NONE


@dataclass(frozen=True)
class PriorSizes:
    """Numbers of spatial and of temporal prior tokens, and their channels; the defaults are those of JavisDiT v0.1."""

    spatial_tokens: int = 32
    temporal_tokens: int = 32
    channels: int = 128

    @property
    def num_tokens(self) -> int:
        """Tokens of both kinds."""
        return self.spatial_tokens + self.temporal_tokens


def is_added(name: str) -> bool:
    """Whether a tensor or module belongs to an added synchroniser, under the original's names or under those formed for diffusers."""
    return not _ADDED_PARTS.isdisjoint(name.split("."))
