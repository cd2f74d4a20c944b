"""Table of reference scores: four errors per pair and draw, which replace a forward pass of the reference in every step."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from avpref.datasets.tables import Table

REFERENCE_SCORES = Table(
    "reference_scores",
    pa.schema(
        [
            pa.field("pair_id", pa.string(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
            pa.field("draw", pa.int64(), nullable=False),
            pa.field("chosen_video", pa.float32()),
            pa.field("rejected_video", pa.float32()),
            pa.field("chosen_audio", pa.float32()),
            pa.field("rejected_audio", pa.float32()),
        ]
    ),
)


@dataclass(frozen=True)
class ReferenceScoreRow:
    """Mean squared velocity errors of the reference on both sides of pair ``row`` at its noise ``draw``; None without the modality."""

    pair_id: str
    row: int
    draw: int
    chosen_video: float | None
    rejected_video: float | None
    chosen_audio: float | None
    rejected_audio: float | None
