"""The gate: fixed rules on measured deltas. Every rule is a row; the verdict is "promote" only if every rule passes.

Because *all* rules must pass, their number needs no correction: the gate promotes wrongly only if at least one rule
should have refused, and then no more often than that rule alone would (an intersection–union test: R. Berger,
Multiparameter hypothesis testing and acceptance sampling, Technometrics 24, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from avpref.config.gate_settings import (
    BenchRule,
    DisplacementRule,
    GateRule,
    GateSettings,
    JudgeRule,
    MinimumEffectRule,
    NonInferiorityRule,
    SuperiorityRule,
    ValidityRule,
    VotesRule,
)
from avpref.datasets.evidence.evaluation import DimensionComparison, Unscorable
from avpref.datasets.evidence.rule_kinds import RuleKind, rule_kind
from avpref.datasets.rows import GateRow
from avpref.domain import Dimension
from avpref.errors import ConfigError
from avpref.identity import digest

PROMOTE, REFUSE = "promote", "refuse"


@dataclass(frozen=True)
class RuleOutcome:
    """One rule: measured value, bound, and whether it passed."""

    rule: str
    dimension: str
    value: float
    bound: float
    passed: bool
    detail: str

    @property
    def kind(self) -> RuleKind:
        """Label, unit and relation of the rule, for reports; tables and documents hold its name alone."""
        return rule_kind(self.rule)


@dataclass(frozen=True)
class Verdict:
    """The decision and the rules that led to it."""

    verdict: str
    rules: tuple[RuleOutcome, ...]

    @property
    def is_promoted(self) -> bool:
        """True if every rule passed."""
        return self.verdict == PROMOTE

    def with_rules(self, outcomes: Sequence[RuleOutcome]) -> Verdict:
        """The verdict of these rules and of ``outcomes``."""
        return verdict_of((*self.rules, *outcomes))

    @property
    def reasons(self) -> list[str]:
        """One line per rule that refused."""
        return [rule.detail for rule in self.rules if not rule.passed]


class Requirement(Protocol):
    """A rule on the comparison of one dimension."""

    def outcomes(self, comparisons: Mapping[str, DimensionComparison]) -> list[RuleOutcome]:
        """The outcomes of the rule."""
        ...

    def is_hopeless(self, comparisons: Mapping[str, DimensionComparison]) -> bool:
        """True if even the upper bound of the interval fails."""
        ...


@dataclass(frozen=True)
class EstimateAtLeast:
    """The measured delta is at least ``bound``."""

    rule: str
    dimension: str
    bound: float

    def outcomes(self, comparisons: Mapping[str, DimensionComparison]) -> list[RuleOutcome]:
        """See :class:`Requirement`."""
        value = comparisons[self.dimension].delta_sd
        passed = value >= self.bound
        detail = f"{self.dimension} delta {value:+.3f} sd {'>=' if passed else '<'} {self.bound:+.3f} sd"
        return [RuleOutcome(self.rule, self.dimension, value, self.bound, passed, detail)]

    def is_hopeless(self, comparisons: Mapping[str, DimensionComparison]) -> bool:
        """See :class:`Requirement`."""
        return comparisons[self.dimension].ci_high < self.bound


@dataclass(frozen=True)
class LowerBoundAbove:
    """The lower bound of the interval is above ``bound``, and there are enough pairs for the interval's level.

    All n differences of two equal models have one sign by chance with probability up to 2^-n, and every interval computed
    from them then lies on one side of 0: with too few pairs no interval can have the stated level.
    """

    rule: str
    dimension: str
    bound: float

    def outcomes(self, comparisons: Mapping[str, DimensionComparison]) -> list[RuleOutcome]:
        """See :class:`Requirement`."""
        comparison = comparisons[self.dimension]
        value, passed = comparison.ci_low, comparison.ci_low > self.bound
        sign = ">" if passed else "<="
        detail = f"{self.dimension} lower bound of the interval {value:+.3f} sd {sign} {self.bound:+.3f} sd"
        rule = RuleOutcome(self.rule, self.dimension, value, self.bound, passed, detail)
        return [rule, *_too_few(self.dimension, comparison)]

    def is_hopeless(self, comparisons: Mapping[str, DimensionComparison]) -> bool:
        """See :class:`Requirement`."""
        return comparisons[self.dimension].ci_high <= self.bound


def decide(
    comparisons: Mapping[str, DimensionComparison],
    displacement: Mapping[str, float | None],
    settings: GateSettings,
    meaningless: Sequence[str] = (),
    unscorable: Mapping[str, Unscorable] | None = None,
) -> Verdict:
    """Apply the rules. ``displacement`` is the chosen side's mean loss change per modality (positive: it got worse).

    ``meaningless`` names scorers with random weights; nothing is promoted on their scores. ``unscorable`` is the input of
    the validity rule, which refuses without it.
    """
    outcomes: list[RuleOutcome] = []
    for requirement in requirements(settings):
        outcomes += requirement.outcomes(comparisons)
    for rule in settings.rules or (DisplacementRule(maximum=settings.max_displacement),):
        match rule:
            case DisplacementRule():
                outcomes += _displaced(displacement, rule.maximum)
            case ValidityRule():
                outcomes += _valid(unscorable or {}, rule.max_rise)
    outcomes += [_random(name) for name in meaningless]
    return verdict_of(outcomes)


def verdict_of(outcomes: Sequence[RuleOutcome]) -> Verdict:
    """Promote if every rule passed."""
    return Verdict(PROMOTE if all(rule.passed for rule in outcomes) else REFUSE, tuple(outcomes))


def check_dimensions(settings: GateSettings, dimensions: Sequence[str]) -> None:
    """Raises ConfigError for a rule on a dimension that is none of ``dimensions``, those that the metrics measure."""
    for rule in settings.rules:
        match rule:
            case SuperiorityRule() | MinimumEffectRule() | NonInferiorityRule():
                if rule.dimension not in dimensions:
                    found = f"evaluation.gate.rules: {rule.kind} of dimension '{rule.dimension}'"
                    fix = "list a metric of that dimension in scoring.metrics, or change the rule"
                    raise ConfigError(found, f"a dimension that a metric measures: {', '.join(dimensions)}", fix)
            case DisplacementRule() | ValidityRule() | JudgeRule() | VotesRule() | BenchRule():
                pass


def is_hopeless(comparisons: Mapping[str, DimensionComparison], settings: GateSettings) -> bool:
    """True if a rule fails by its interval's upper bound, so that more prompts cannot help."""
    return any(requirement.is_hopeless(comparisons) for requirement in requirements(settings))


def requirements(settings: GateSettings) -> list[Requirement]:
    """The rules on comparisons, in order: those in ``settings.rules``, or the three default rules."""
    if settings.rules:
        return [requirement for rule in settings.rules for requirement in _requirement(rule)]
    return [
        EstimateAtLeast("audio_gain", Dimension.AUDIO, settings.min_audio_delta_sd),
        LowerBoundAbove("sync_gain", Dimension.AV, settings.min_av_ci_low_sd),
        LowerBoundAbove("video_kept", Dimension.VIDEO, settings.min_video_ci_low_sd),
    ]


def min_pairs(level: float) -> int:
    """The number of pairs n from which 2^-n is at most ``level``."""
    return math.ceil(-math.log2(level))


def rows(verdict: Verdict, inputs_hash: str) -> list[GateRow]:
    """The decision as table rows; the same inputs always give the same rows."""
    gate_id = decision_id(verdict, inputs_hash)
    return [GateRow(gate_id, **vars(rule), verdict=verdict.verdict, inputs_hash=inputs_hash) for rule in verdict.rules]


def decision_id(verdict: Verdict, inputs_hash: str) -> str:
    """Identity of a decision: its inputs and the rules with their bounds."""
    return "g" + digest("gate", inputs_hash, [[rule.rule, rule.bound] for rule in verdict.rules])


def _requirement(rule: GateRule) -> list[Requirement]:
    match rule:
        case SuperiorityRule():
            return [LowerBoundAbove(rule.kind, rule.dimension, rule.margin_sd)]
        case MinimumEffectRule():
            return [EstimateAtLeast(rule.kind, rule.dimension, rule.effect_sd)]
        case NonInferiorityRule():
            return [LowerBoundAbove(rule.kind, rule.dimension, -rule.margin_sd)]
        case DisplacementRule() | ValidityRule() | JudgeRule() | VotesRule() | BenchRule():
            return []


def _too_few(dimension: str, comparison: DimensionComparison) -> list[RuleOutcome]:
    needed = min_pairs(comparison.level)
    if comparison.num_pairs >= needed:
        return []
    detail = f"{comparison.num_pairs} comparable pairs in {dimension}; an interval at this level needs {needed}"
    return [RuleOutcome("enough_pairs", dimension, float(comparison.num_pairs), float(needed), False, detail)]


def _random(scorer: str) -> RuleOutcome:
    return RuleOutcome("meaningful_scores", "", 0.0, 1.0, False, f"the scores of {scorer} mean nothing")


def _displaced(displacement: Mapping[str, float | None], bound: float) -> list[RuleOutcome]:
    outcomes = []
    for modality, value in sorted(displacement.items()):
        if value is not None:
            passed = value < bound
            detail = f"displacement of the chosen {modality} {value:+.5f} {'<' if passed else '>='} {bound:.5f}"
            outcomes.append(RuleOutcome("displacement", modality, value, bound, passed, detail))
    return outcomes


def _valid(unscorable: Mapping[str, Unscorable], bound: float) -> list[RuleOutcome]:
    if not unscorable:
        return [RuleOutcome("validity", "", 1.0, bound, False, "nothing is known of clips that could not be scored")]
    outcomes = []
    for dimension, share in unscorable.items():
        rise = share.policy - share.reference
        passed = rise <= bound
        detail = f"unscorable {dimension} clips rose by {rise:+.2%} {'<=' if passed else '>'} {bound:.2%}"
        outcomes.append(RuleOutcome("validity", dimension, rise, bound, passed, detail))
    return outcomes
