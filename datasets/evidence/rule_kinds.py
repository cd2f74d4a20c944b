"""The kinds of gate rules and how a report words them. Tables and documents hold only the name of a kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleKind:
    """One kind of rule.

    ``label``: name for people. ``relation``: how the measured value must relate to the bound, such as "at least".
    ``unit``: unit of both, empty for counts and shares. ``digits``: decimal places. ``names_dimension``: whether the label
    already says which dimension the rule is about.
    """

    name: str
    label: str
    relation: str = "above"
    unit: str = "sd"
    digits: int = 3
    names_dimension: bool = False


RULE_KINDS = (
    RuleKind("audio_gain", "Audio improved: mean change", "at least", names_dimension=True),
    RuleKind("sync_gain", "Sync improved: lower end of the interval", names_dimension=True),
    RuleKind("video_kept", "Video kept: lower end of the interval", names_dimension=True),
    RuleKind("displacement", "Displacement: rise of the chosen clips' training error", "below", unit="", digits=5),
    RuleKind("meaningful_scores", "Scores are meaningful", "at least", unit="", digits=0, names_dimension=True),
    RuleKind("superiority", "Improved: lower end of the interval"),
    RuleKind("minimum_effect", "Improved: mean change", "at least"),
    RuleKind("non_inferiority", "Kept: lower end of the interval"),
    RuleKind("validity", "Rise of the share of clips without a valid score", "at most", unit=""),
    RuleKind("enough_pairs", "Enough comparable pairs", "at least", unit="", digits=0),
    RuleKind("judge", "Judge not worse: upper end of the interval", "at least"),
    RuleKind("bench", "Benchmark improved: lower end of the interval", "at least", unit=""),
    RuleKind("judge_pairs", "Judge compared enough prompts", "at least", unit="", digits=0),
    RuleKind("votes", "People prefer it: lower end of the win rate's interval", unit=""),
    RuleKind("voted_items", "Enough items with votes", "at least", unit="", digits=0),
    RuleKind(
        "reward_hacking", "Suspected reward hacking: fallen judges while selectors rose", "at most", unit="", digits=0
    ),
)
_BY_NAME = {kind.name: kind for kind in RULE_KINDS}


def rule_kind(name: str) -> RuleKind:
    """The kind called ``name``. A name that another version wrote is its own label."""
    return _BY_NAME.get(name) or RuleKind(name, name)
