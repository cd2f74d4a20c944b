"""The section ``audit``: what is done about shortcuts in pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from avpref.config.section import Section


class AuditSettings(Section):
    """Shortcuts that tell chosen from rejected; see datasets/evidence/shortcuts.py. What is trained does not depend on it."""

    action: Literal["flag", "refuse", "off"] = Field(
        default="flag", description="flag: say so and go on; refuse: stop before training; off: measure nothing"
    )
    max_auroc: float = Field(
        default=0.8, ge=0.5, le=1, description="how well a single fact, or all together, may tell chosen from rejected"
    )
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @field_validator("action", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        """YAML 1.1 reads a bare ``off`` as false."""
        return "off" if value is False else value
