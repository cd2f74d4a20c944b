"""Sections ``evaluation`` and ``promotion``: the held-out comparison, the rules of the gate, and the alias it moves."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from avpref.config.scorer_use import ScorerEntry, ScorerUse, as_use, listed, shortened
from avpref.config.section import Section
from avpref.domain import Dimension, public_name


def _dimension_name(name: str) -> str:
    if name == public_name(Dimension.AV):
        raise ValueError(
            f"'{name}' is the printed name of 'av'; use 'video', 'audio' or 'av', or another dimension of a metric"
        )
    return name


DimensionName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$"), AfterValidator(_dimension_name)]
"""``video``, ``audio``, ``av``, or another dimension that a configured metric measures."""


class SuperiorityRule(Section):
    """The policy is better than the reference by more than ``margin_sd``: the lower bound of the interval exceeds it."""

    kind: Literal["superiority"] = "superiority"
    dimension: DimensionName
    margin_sd: float = Field(default=0.0, ge=0)


class MinimumEffectRule(Section):
    """The measured delta (the estimate, not its interval) is at least ``effect_sd``."""

    kind: Literal["minimum_effect"] = "minimum_effect"
    dimension: DimensionName
    effect_sd: float = Field(default=0.5, ge=0)


class NonInferiorityRule(Section):
    """The policy is at most ``margin_sd`` worse than the reference: the lower bound of the interval exceeds -margin_sd."""

    kind: Literal["non_inferiority"] = "non_inferiority"
    dimension: DimensionName
    margin_sd: float = Field(default=0.05, gt=0)


class DisplacementRule(Section):
    """Training did not make the chosen clips less likely: the displacement of each modality is below ``maximum``."""

    kind: Literal["displacement"] = "displacement"
    maximum: float = Field(default=0.01, gt=0)


class ValidityRule(Section):
    """The share of clips without a valid score rose by at most ``max_rise`` in every dimension."""

    kind: Literal["validity"] = "validity"
    max_rise: float = Field(default=0.0, ge=0, lt=1)


class JudgeRule(Section):
    """No judge shows a fall: no interval of a judge's metric lies entirely below -margin_sd.

    ``metric`` names one metric of a judge (``SCORER/METRIC``); empty: every metric without a rule of its own.
    """

    kind: Literal["judge"] = "judge"
    metric: str = ""
    margin_sd: float = Field(default=0.05, ge=0)


class VotesRule(Section):
    """People prefer the policy: in a blind study, the lower bound of its win rate's interval exceeds ``min_win_rate``.

    A tie is half a win. Without a study the rule refuses.
    """

    kind: Literal["votes"] = "votes"
    aspect: str = "overall"
    min_win_rate: float = Field(default=0.5, ge=0, lt=1)


class BenchRule(Section):
    """A column of the benchmark improved enough: the lower end of the interval of its improvement is at least ``min_gain``.

    The improvement is in the column's own unit, positive where the policy is better; a negative ``min_gain`` accepts a fall.
    """

    kind: Literal["bench"] = "bench"
    column: str = Field(min_length=1)
    min_gain: float = Field(default=0.0, allow_inf_nan=False)


GateRule = Annotated[
    SuperiorityRule
    | MinimumEffectRule
    | NonInferiorityRule
    | DisplacementRule
    | ValidityRule
    | JudgeRule
    | VotesRule
    | BenchRule,
    Field(discriminator="kind"),
]


class GateSettings(Section):
    """Promotion rules: deltas are in standard deviations of the SFT model's rewards on the held-out clips.

    Set either the five bounds, which cover most runs, or a list of ``rules`` that replaces them. The rule for judges applies with
    its default margin where ``rules`` has none.
    """

    min_audio_delta_sd: float = 0.5
    min_av_ci_low_sd: float = 0.0
    min_video_ci_low_sd: float = -0.05
    max_displacement: float = Field(default=0.01, gt=0)
    judge_margin_sd: float = Field(default=0.05, ge=0, description="largest fall of a judge's metric that is accepted")
    rules: tuple[GateRule, ...] = ()

    @model_validator(mode="after")
    def _bounds_or_rules(self) -> Self:
        bounds = {name: field.default for name, field in type(self).model_fields.items() if name != "rules"}
        changed = [name for name, default in bounds.items() if getattr(self, name) != default]
        if self.rules and changed:
            raise ValueError(f"rules replace the five bounds, but {changed[0]} is set too: remove one of them")
        return self


class BootstrapProcedure(Section):
    """Compare on all held-out prompts at once; intervals come from the paired bootstrap."""

    kind: Literal["bootstrap"] = "bootstrap"


class SequentialProcedure(Section):
    """Sequential test with a look every ``look_prompts`` held-out prompts; it stops at the first conclusive look.

    The error rate holds for any number of looks.
    """

    kind: Literal["sequential"] = "sequential"
    look_prompts: int = Field(default=64, ge=2)


Procedure = Annotated[BootstrapProcedure | SequentialProcedure, Field(discriminator="kind")]


class EvaluationBenchSettings(Section):
    """A benchmark of the held-out clips of both sides; an empty ``preset`` means none.

    ``changes`` are settings of the preset as ``SETTING=VALUE``. ``reference`` is a folder of clips or a file of ``avpref bench features``;
    empty: the ground truth of the held-out prompts, where they have one.
    """

    preset: str = ""
    changes: tuple[str, ...] = ()
    columns: tuple[str, ...] = Field(default=(), description="columns of the preset; empty: all")
    reference: str = ""


class EvaluationSettings(Section):
    """Held-out comparison of policy and reference on the same noise.

    ``judges`` are scorers that take no part in selecting pairs: they score the held-out clips of both sides, and the gate refuses a
    policy that they show to be worse. Their models are set in the section ``scoring``.
    """

    bootstrap_samples: int = Field(default=2000, gt=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    procedure: Procedure = BootstrapProcedure()
    gate: GateSettings = GateSettings()
    judges: tuple[ScorerEntry, ...] = Field(
        default=(), description="scorers that judge the policy and select no pairs; named as in scoring.scorers"
    )
    judge_metrics: tuple[str, ...] = Field(
        default=(), description="the judges' metrics that count, as SCORER/METRIC; empty: all"
    )

    bench: EvaluationBenchSettings = EvaluationBenchSettings()

    @model_validator(mode="after")
    def _rules_have_their_benchmark(self) -> Self:
        ruled = [rule.column for rule in self.gate.rules if isinstance(rule, BenchRule)]
        if ruled and not self.bench.preset:
            raise ValueError(f"a rule on the column {ruled[0]} needs evaluation.bench.preset")
        return self

    @field_validator("judges", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return listed(value)

    @field_validator("judges")
    @classmethod
    def _distinct(cls, value: tuple[str | ScorerUse, ...]) -> tuple[str | ScorerUse, ...]:
        return shortened(value) if value else ()

    @property
    def judge_uses(self) -> tuple[ScorerUse, ...]:
        """The judges in the long form."""
        return tuple(as_use(entry) for entry in self.judges)


class PromotionSettings(Section):
    """The alias that a passed gate moves, in the registry next to the runs. Not part of a run's identity."""

    alias: str = Field(default="serving", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    automatic: bool = Field(default=False, description="retrain moves the alias itself when the gate passes")
    approval: Literal["none", "required"] = "none"
