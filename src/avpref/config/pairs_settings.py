"""Sections ``pairs`` and ``audit``: how pairs are selected, and the check of pairs for shortcuts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from avpref.config.section import ExtendedSection, Section


class PairSettings(ExtendedSection):
    """Rules that select the chosen and the rejected candidate of a prompt; see datasets/selection/pairing.py."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"votes"})

    strategy: Literal["modality", "average", "strict", "routed"] = "modality"
    average: Literal["micro", "macro"] = "micro"
    normalise: bool = True
    ground_truth: bool = True
    min_margin: float = Field(default=0.0, ge=0)
    max_pairs_per_prompt: int = Field(default=1, gt=0)
    min_aspect_ratio: float = Field(default=0.0, ge=0)
    max_aspect_ratio: float = Field(default=1e9, gt=0)
    max_length_ratio: float = Field(default=1e9, ge=1)
    routed_tolerance: float = Field(
        default=0.25,
        ge=0,
        description="routed: how much worse the chosen side of a pair of one dimension may be in every other dimension",
    )
    norm: str = Field(default="", description="id of a saved norm to reuse; empty: measured on this run's scores")
    votes: str = Field(
        default="",
        pattern=r"^(|[^/@]+/s[0-9a-f]{16}@[0-9a-f]{16})$",
        description="RUN/STUDY@VOTES: people's votes that turn or drop pairs; empty: the rewards alone",
    )


class AuditSettings(Section):
    """Checks of what the pairs teach; none of them changes the training data.

    Plain facts that separate chosen from rejected clips (datasets/evidence/shortcuts.py), and metrics that do not look at the prompt
    (datasets/selection/prompt_blind.py).
    """

    action: Literal["flag", "refuse", "off"] = Field(
        default="flag", description="flag: warn and continue; refuse: stop before training; off: measure nothing"
    )
    max_auroc: float = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="highest accepted AUROC of one fact, or of all together, for chosen against rejected",
    )
    confidence: float = Field(default=0.95, gt=0, lt=1)

    prompt_blind: Literal["warn", "refuse", "off"] = Field(
        default="warn",
        description="rewards that do not look at the prompt: warn and continue; refuse: select no pairs; off: do not check",
    )

    @field_validator("action", "prompt_blind", mode="before")
    @classmethod
    def _false_means_off(cls, value: object) -> object:
        """Accept a bare ``off``, which YAML 1.1 reads as false."""
        return "off" if value is False else value
