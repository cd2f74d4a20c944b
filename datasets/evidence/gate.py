"""The gate: fixed rules on measured deltas. Every rule is a row; the verdict is yes only if every rule passed.

Because *all* rules must pass, no correction for their number is needed: the gate is wrong only where at least one
rule should have refused, and it says yes no more often than that rule alone does (an intersection–union test: R. Berger,
Multiparameter hypothesis testing and acceptance sampling, Technometrics 24, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from avpref.config.gate_settings import (
    DisplacementRule,
    GateRule,
    GateSettings,
    MinimumEffectRule,
    NonInferiorityRule,
    SuperiorityRule,
    ValidityRule,
)
from avpref.datasets.evidence.evaluation import DimensionComparison, Unscorable
from avpref.datasets.rows import GateRow
from avpref.domain import Dimension
from avpref.identity import digest

PROMOTE, REFUSE = "promote", "refuse"


@dataclass(frozen=True)
class RuleOutcome:
    """One rule: what was measured, the bound, and whether it holds."""

    rule: str
    dimension: str
    value: float
    bound: float
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """The decision and the rules that led to it."""

    verdict: str
    rules: tuple[RuleOutcome, ...]

    @property
    def is_promoted(self) -> bool:
        """Whether every rule passed."""
        return self.verdict == PROMOTE

    @property
    def reasons(self) -> list[str]:
        """One line per rule that refused."""
        return [rule.detail for rule in self.rules if not rule.passed]


class Requirement(Protocol):
    """A rule on the comparison of one dimension."""

    def outcomes(self, comparisons: Mapping[Dimension, DimensionComparison]) -> list[RuleOutcome]:
        """What came of it."""
        ...

    def is_hopeless(self, comparisons: Mapping[Dimension, DimensionComparison]) -> bool:
        """Whether even the interval's upper bound fails."""
        ...


@dataclass(frozen=True)
class EstimateAtLeast:
    """The measured delta is at least ``bound``."""

    rule: str
    dimension: Dimension
    bound: float

    def outcomes(self, comparisons: Mapping[Dimension, DimensionComparison]) -> list[RuleOutcome]:
        """See :class:`Requirement`."""
        value = comparisons[self.dimension].delta_sd
        passed = value >= self.bound
        detail = f"{self.dimension} delta {value:+.3f} sd {'>=' if passed else '<'} {self.bound:+.3f} sd"
        return [RuleOutcome(self.rule, self.dimension, value, self.bound, passed, detail)]

    def is_hopeless(self, comparisons: Mapping[Dimension, DimensionComparison]) -> bool:
        """See :class:`Requirement`."""
        return comparisons[self.dimension].ci_high < self.bound


@dataclass(frozen=True)
class LowerBoundAbove:
    """The lower bound of the interval is above ``bound``, and there are enough pairs for it to mean what it says.

    Between two equal models all n differences have one sign by chance with probability up to 2^-n, and then every interval
    that is made of them lies on one side: below that many pairs no bound is what it says.
    """

    rule: str
    dimension: Dimension
    bound: float

    def outcomes(self, comparisons: Mapping[Dimension, DimensionComparison]) -> list[RuleOutcome]:
        """See :class:`Requirement`."""
        found = comparisons[self.dimension]
        value, passed = found.ci_low, found.ci_low > self.bound
        sign = ">" if passed else "<="
        detail = f"{self.dimension} lower bound of the interval {value:+.3f} sd {sign} {self.bound:+.3f} sd"
        rule = RuleOutcome(self.rule, self.dimension, value, self.bound, passed, detail)
        return [rule, *_too_few(self.dimension, found)]

    def is_hopeless(self, comparisons: Mapping[Dimension, DimensionComparison]) -> bool:
        """See :class:`Requirement`."""
        return comparisons[self.dimension].ci_high <= self.bound


def decide(
    comparisons: Mapping[Dimension, DimensionComparison],
    displacement: Mapping[str, float | None],
    settings: GateSettings,
    meaningless: Sequence[str] = (),
    unscorable: Mapping[Dimension, Unscorable] | None = None,
) -> Verdict:
    """Apply the rules. ``displacement`` is the chosen side's mean loss change per modality (positive: it got worse).

    ``meaningless`` names scorers with random weights: whatever they say, nothing is promoted on it. ``unscorable`` is what
    a validity rule asks for; without it the rule refuses.
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
    return Verdict(PROMOTE if all(rule.passed for rule in outcomes) else REFUSE, tuple(outcomes))


def is_hopeless(comparisons: Mapping[Dimension, DimensionComparison], settings: GateSettings) -> bool:
    """Whether a rule fails by its interval's upper bound, so that looking further is a waste."""
    return any(requirement.is_hopeless(comparisons) for requirement in requirements(settings))


def requirements(settings: GateSettings) -> list[Requirement]:
    """The rules on comparisons, in order: those that are listed, or the three that the bounds stand for."""
    if settings.rules:
        return [found for rule in settings.rules for found in _requirement(rule)]
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
            return [LowerBoundAbove(rule.kind, Dimension(rule.dimension), rule.margin_sd)]
        case MinimumEffectRule():
            return [EstimateAtLeast(rule.kind, Dimension(rule.dimension), rule.effect_sd)]
        case NonInferiorityRule():
            return [LowerBoundAbove(rule.kind, Dimension(rule.dimension), -rule.margin_sd)]
        case DisplacementRule() | ValidityRule():
            return []


def _too_few(dimension: Dimension, found: DimensionComparison) -> list[RuleOutcome]:
    needed = min_pairs(found.level)
    if found.num_pairs >= needed:
        return []
    detail = f"{found.num_pairs} comparable pairs in {dimension}; an interval at this level needs {needed}"
    return [RuleOutcome("enough_pairs", dimension, float(found.num_pairs), float(needed), False, detail)]


def _random(scorer: str) -> RuleOutcome:
    return RuleOutcome("meaningful_scores", "", 0.0, 1.0, False, f"the scores of {scorer} mean nothing")


def _displaced(displacement: Mapping[str, float | None], bound: float) -> list[RuleOutcome]:
    found = []
    for modality, value in sorted(displacement.items()):
        if value is not None:
            passed = value < bound
            detail = f"displacement of the chosen {modality} {value:+.5f} {'<' if passed else '>='} {bound:.5f}"
            found.append(RuleOutcome("displacement", modality, value, bound, passed, detail))
    return found


def _valid(unscorable: Mapping[Dimension, Unscorable], bound: float) -> list[RuleOutcome]:
    if not unscorable:
        return [RuleOutcome("validity", "", 1.0, bound, False, "nothing is known of clips that could not be scored")]
    found = []
    for dimension, share in unscorable.items():
        rise = share.policy - share.reference
        passed = rise <= bound
        detail = f"unscorable {dimension} clips rose by {rise:+.2%} {'<=' if passed else '>'} {bound:.2%}"
        found.append(RuleOutcome("validity", dimension, rise, bound, passed, detail))
    return found
