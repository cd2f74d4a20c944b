"""The gate's rule on votes: it refuses without votes, at its bound, and with too few items."""

from __future__ import annotations

import json
import math

import pytest

from avpref.config.gate_settings import GateSettings, SuperiorityRule, VotesRule
from avpref.datasets.evidence.people import AspectVotes, VoteEvidence, outcomes, requires_votes

RULES = GateSettings(rules=(VotesRule(min_win_rate=0.5),))


def evidence(ci_low: float, num_items: int = 30, aspect: str = "overall") -> VoteEvidence:
    return VoteEvidence("s1", "h", {aspect: AspectVotes(0.7, ci_low, 0.9, num_items)})


def test_the_lower_bound_decides() -> None:
    assert [rule.passed for rule in outcomes(evidence(0.5), RULES)] == [False]
    assert [rule.passed for rule in outcomes(evidence(math.nextafter(0.5, 1)), RULES)] == [True]


@pytest.mark.parametrize("votes", [None, evidence(0.9, aspect="text")])
def test_without_votes_on_the_aspect_the_rule_refuses(votes: VoteEvidence | None) -> None:
    (refused,) = outcomes(votes, RULES)
    assert not refused.passed and "avpref votes plan" in refused.detail


def test_few_items_refuse_whatever_the_interval() -> None:
    assert [rule.passed for rule in outcomes(evidence(0.9, num_items=5), RULES)] == [True, False]
    assert [rule.passed for rule in outcomes(evidence(0.9, num_items=6), RULES)] == [True]


def test_other_rules_ask_for_no_votes() -> None:
    others = GateSettings(rules=(SuperiorityRule(dimension="av"),))
    assert requires_votes(RULES) and not requires_votes(others) and outcomes(None, others) == []


def test_evidence_survives_json() -> None:
    from dataclasses import asdict

    votes = evidence(0.6)
    assert VoteEvidence.from_document(json.loads(json.dumps(asdict(votes)))) == votes
