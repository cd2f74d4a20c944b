"""A row per round of training: its gains, drift and yield."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RoundRow:
    """A finished round.

    Attributes:
        gains: by dimension, the held-out change against the SFT network on the same noise, in standard deviations of its rewards.
        drift: mean square of policy minus reference velocity, over both modalities; the reference is the configured one.
        update_norm: Frobenius norm of the whole update of the SFT network's weights.
        candidates: new candidates of training prompts; ``from_sft`` of them were sampled from the SFT network.
        pairs: new pairs; ``earlier_pairs`` were taken over. ``pair_yield``: new pairs per training prompt.
        diversity: spread of clip facts between the generated candidates of a prompt, in standard deviations of the facts over the
            first round's candidates, averaged over facts; None without an audit.
    """

    round: int
    run_id: str
    verdict: str
    gains: Mapping[str, float]
    drift: float | None
    update_norm: float
    candidates: int
    from_sft: int
    pairs: int
    earlier_pairs: int
    pair_yield: float
    diversity: float | None

    def document(self) -> dict[str, Any]:
        """The row as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values
