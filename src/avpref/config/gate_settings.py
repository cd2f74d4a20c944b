"""Sections of the held-out decision: the gate's rules, how the evidence is looked at, and what a yes moves."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from avpref.config.section import Section

DimensionName = Literal["video", "audio", "av"]


class SuperiorityRule(Section):
    """The policy is better than the reference by more than a margin: the interval's lower bound is above it."""

    kind: Literal["superiority"] = "superiority"
    dimension: DimensionName
    margin_sd: float = Field(default=0.0, ge=0)


class MinimumEffectRule(Section):
    """The measured gain is worth having: the delta itself, not its interval, is at least this."""

    kind: Literal["minimum_effect"] = "minimum_effect"
    dimension: DimensionName
    effect_sd: float = Field(default=0.5, ge=0)


class NonInferiorityRule(Section):
    """The policy is not worse than the reference by more than a margin: the interval's lower bound is above minus it."""

    kind: Literal["non_inferiority"] = "non_inferiority"
    dimension: DimensionName
    margin_sd: float = Field(default=0.05, gt=0)


class DisplacementRule(Section):
    """Training did not make the chosen clips less likely: the displacement of either modality is below this."""

    kind: Literal["displacement"] = "displacement"
    maximum: float = Field(default=0.01, gt=0)


class ValidityRule(Section):
    """The share of clips that a scorer could not judge did not rise by more than this, in any dimension."""

    kind: Literal["validity"] = "validity"
    max_rise: float = Field(default=0.0, ge=0, lt=1)


GateRule = Annotated[
    SuperiorityRule | MinimumEffectRule | NonInferiorityRule | DisplacementRule | ValidityRule,
    Field(discriminator="kind"),
]


class GateSettings(Section):
    """Promotion rules: deltas are in standard deviations of the SFT model's rewards on the held-out clips.

    Either the four bounds, which are the rules of most runs, or a list of ``rules`` in their place.
    """

    min_audio_delta_sd: float = 0.5
    min_av_ci_low_sd: float = 0.0
    min_video_ci_low_sd: float = -0.05
    max_displacement: float = Field(default=0.01, gt=0)
    rules: tuple[GateRule, ...] = ()

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        bounds = {name: field.default for name, field in type(self).model_fields.items() if name != "rules"}
        changed = [name for name, default in bounds.items() if getattr(self, name) != default]
        if self.rules and changed:
            raise ValueError(f"rules take the place of the four bounds, and {changed[0]} is given too: leave one out")
        return self


class BootstrapProcedure(Section):
    """All held-out prompts at once; intervals from the paired bootstrap."""

    kind: Literal["bootstrap"] = "bootstrap"


class SequentialProcedure(Section):
    """Looks of so many held-out prompts; it ends at the first that decides, and no look costs the error rate."""

    kind: Literal["sequential"] = "sequential"
    look_prompts: int = Field(default=64, ge=2)


Procedure = Annotated[BootstrapProcedure | SequentialProcedure, Field(discriminator="kind")]


class EvaluationSettings(Section):
    """Held-out comparison of policy and reference on the same noise."""

    bootstrap_samples: int = Field(default=2000, gt=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    procedure: Procedure = BootstrapProcedure()
    gate: GateSettings = GateSettings()


class PromotionSettings(Section):
    """What a yes of the gate moves: an alias in the registry beside the runs. Not part of a run's identity."""

    alias: str = Field(default="serving", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    automatic: bool = Field(default=False, description="retrain moves the alias itself when the gate says promote")
    approval: Literal["none", "required"] = "none"
