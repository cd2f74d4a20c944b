"""Every rule that the gate can apply is declared with a label, and its wording is no part of what is sealed."""

from __future__ import annotations

from dataclasses import asdict, replace

from avpref.config.gate_settings import (
    BenchRule,
    DisplacementRule,
    GateSettings,
    MinimumEffectRule,
    NonInferiorityRule,
    SuperiorityRule,
    ValidityRule,
    VotesRule,
)
from avpref.datasets.evidence import gate, judging, people
from avpref.datasets.evidence.bench_deltas import BenchDelta, bench_outcomes
from avpref.datasets.evidence.evaluation import DimensionComparison
from avpref.datasets.evidence.rule_kinds import RULE_KINDS, RuleKind, rule_kind
from avpref.domain import Dimension

FEW = DimensionComparison(delta_sd=1.0, ci_low=0.5, ci_high=1.5, win_rate=0.8, num_pairs=3, reference_sd=1.0)
EVERY_RULE = GateSettings(
    rules=(
        SuperiorityRule(dimension="audio"),
        MinimumEffectRule(dimension="audio"),
        NonInferiorityRule(dimension="video"),
        DisplacementRule(),
        ValidityRule(),
        VotesRule(),
        BenchRule(column="fad"),
    )
)


def outcomes() -> list[gate.RuleOutcome]:
    comparisons = {str(dimension): FEW for dimension in Dimension}
    kept: dict[str, float | None] = {"video": 0.0, "audio": 0.0}
    verdicts = [gate.decide(comparisons, kept, each, ["Scorer"]) for each in (GateSettings(), EVERY_RULE)]
    fallen = replace(FEW, ci_low=-1.5, ci_high=-0.5, num_pairs=1000)
    judged = [
        judging.MetricComparison(f"judge/{number}", judging.Role.JUDGE, "video", change.num_pairs, change)
        for number, change in enumerate((FEW, fallen))
    ]
    verdicts[0] = verdicts[0].with_rules(judging.outcomes(judged, {"video": FEW}, GateSettings()))
    votes = people.VoteEvidence("s", "h", {"overall": people.AspectVotes(0.6, 0.55, 0.7, 3)})
    verdicts[1] = verdicts[1].with_rules(people.outcomes(votes, EVERY_RULE))
    delta = BenchDelta("fad", False, 4.0, 3.0, -1.0, -1.5, -0.5, 3)
    verdicts[1] = verdicts[1].with_rules(bench_outcomes([delta], EVERY_RULE))
    return [rule for verdict in verdicts for rule in verdict.rules]


def test_every_rule_of_the_gate_is_declared_once_and_every_declared_rule_exists() -> None:
    names = [kind.name for kind in RULE_KINDS]
    assert len(names) == len(set(names)) == len({kind.label for kind in RULE_KINDS})
    assert {rule.rule for rule in outcomes()} == set(names)
    assert all(rule.kind in RULE_KINDS and rule.kind.name == rule.rule for rule in outcomes())


def test_the_relation_agrees_with_the_rule_at_its_bound() -> None:
    settings = GateSettings(rules=(SuperiorityRule(dimension="audio"), MinimumEffectRule(dimension="audio")))
    at_bound = replace(FEW, ci_low=0.0, delta_sd=0.5, num_pairs=1000)
    superiority, effect = gate.decide(dict.fromkeys(Dimension, at_bound), {}, settings).rules[:2]
    assert (superiority.kind.relation, superiority.passed) == ("above", False)
    assert (effect.kind.relation, effect.passed) == ("at least", True)


def test_wording_is_not_sealed() -> None:
    for rule in outcomes():
        assert set(vars(rule)) == set(asdict(rule)) == {"rule", "dimension", "value", "bound", "passed", "detail"}


def test_a_rule_of_another_version_is_its_own_label() -> None:
    assert rule_kind("a_later_rule") == RuleKind("a_later_rule", "a_later_rule")
