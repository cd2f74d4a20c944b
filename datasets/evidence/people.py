"""The gate's rule on people's votes: a study of policy against reference is part of the decision's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avpref.config.gate_settings import GateSettings, VotesRule
from avpref.datasets.evidence.gate import RuleOutcome, min_pairs
from avpref.datasets.votes.vote_results import CONFIDENCE, StudyResult

VOTES, VOTED_ITEMS = "votes", "voted_items"
"""Names of the rules on votes in tables and documents."""


@dataclass(frozen=True)
class AspectVotes:
    """The policy's win rate in one aspect (a tie is half a win), its interval, and the number of items with votes."""

    win_rate: float
    ci_low: float
    ci_high: float
    num_items: int


@dataclass(frozen=True)
class VoteEvidence:
    """The result of a study at the time of a decision; ``votes_hash`` identifies the votes that counted."""

    study_id: str
    votes_hash: str
    aspects: Mapping[str, AspectVotes]

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> VoteEvidence:
        """Raises KeyError or TypeError for a wrong or missing key."""
        aspects = {name: AspectVotes(**values) for name, values in document["aspects"].items()}
        return VoteEvidence(document["study_id"], document["votes_hash"], aspects)


def evidence_of(result: StudyResult) -> VoteEvidence:
    """The part of a study's result that a decision keeps."""
    aspects = {
        rated.aspect: AspectVotes(rated.win_rate.value, rated.win_rate.low, rated.win_rate.high, rated.num_items)
        for rated in result.aspects
    }
    return VoteEvidence(result.study_id, result.votes_hash, aspects)


def requires_votes(settings: GateSettings) -> bool:
    """Whether a rule asks for people's votes."""
    return any(isinstance(rule, VotesRule) for rule in settings.rules)


def outcomes(votes: VoteEvidence | None, settings: GateSettings) -> list[RuleOutcome]:
    """The outcomes of the rules on votes: the interval of the win rate lies above the bound, and enough items have votes.

    Without votes on the aspect the rule refuses.
    """
    rules = [rule for rule in settings.rules if isinstance(rule, VotesRule)]
    return [outcome for rule in rules for outcome in _outcomes(votes, rule)]


def _outcomes(votes: VoteEvidence | None, rule: VotesRule) -> list[RuleOutcome]:
    result = None if votes is None else votes.aspects.get(rule.aspect)
    bound = rule.min_win_rate
    if votes is None or result is None:
        detail = f"no votes of people on '{rule.aspect}': avpref votes plan, avpref votes open, then avpref gate decide"
        return [RuleOutcome(VOTES, rule.aspect, 0.0, bound, False, detail)]
    passed = result.ci_low > bound
    sign = ">" if passed else "<="
    detail = (
        f"people's win rate in '{rule.aspect}' (study {votes.study_id}): lower bound of the interval"
        f" {result.ci_low:.3f} {sign} {bound:.3f}"
    )
    won = RuleOutcome(VOTES, rule.aspect, result.ci_low, bound, passed, detail)
    needed = min_pairs((1 - CONFIDENCE) / 2)
    if result.num_items >= needed:
        return [won]
    detail = f"{result.num_items} items with votes on '{rule.aspect}'; an interval at this level needs {needed}"
    return [won, RuleOutcome(VOTED_ITEMS, rule.aspect, float(result.num_items), float(needed), False, detail)]
