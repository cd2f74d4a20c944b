"""Section ``run``: identity of a run and the size of its units."""

from __future__ import annotations

from pydantic import Field

from avpref.config.section import Section


class RunSettings(Section):
    """Identity of a run and the size of its pieces."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    seed: int = Field(default=0, ge=0)
    shard_prompts: int = Field(default=256, gt=0, description="prompts per shard: one task per shard and stage")
    unit_candidates: int = Field(
        default=32, gt=0, description="candidates per unit: one actor call, one committed file"
    )
    max_quarantined_share: float = Field(default=0.2, gt=0, le=1)
