"""Section ``rounds``: the loop repeated, each round sampling from the policy that the round before has trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from avpref.config.section import Section
from avpref.errors import ConfigError


class RoundSettings(Section):
    """Number of rounds, and how a round differs from the first. Every round is a run of its own.

    ``round`` and ``previous`` say which round a run is and on which run it builds; the command sets them.
    """

    count: int = Field(default=1, ge=1, description="rounds at most; --rounds K is short for --set rounds.count=K")
    sft_share: float = Field(default=0.0, ge=0, le=1, description="share of candidates sampled from the SFT network")
    reference: Literal["sft", "previous"] = Field(default="sft", description="the reference of AV-DPO")
    earlier_share: float = Field(
        default=0.0, ge=0, le=1, description="share of the pairs of the round before that are trained on again"
    )
    allocation: Literal["even", "informative"] = Field(
        default="even",
        description="informative: more candidates for prompts without a pair or with contradicting rewards",
    )
    round: int = Field(default=1, ge=1, description="which round the run is")
    previous: str = Field(default="", description="run of the round before")

    def check(self) -> None:
        """Raises ConfigError where ``round`` and ``previous`` contradict each other."""
        if (self.round > 1) != bool(self.previous):
            found = f"rounds.round {self.round} with rounds.previous {self.previous or 'empty'}"
            fix = "--set rounds.round=1 --set rounds.previous='' --set rounds.count=K, which makes the rounds"
            raise ConfigError(found, "the run of the round before in every round but the first", fix)
