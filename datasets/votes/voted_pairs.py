"""Pairs as people vote them: the majority's clip is chosen, whatever the rewards say.

A pair is matched with an item of a study by its two clips, in either order. Where people prefer the rejected clip, the sides change, and
so do the signs of the margins; where they are split or mostly tie, the pair is dropped with a reason. The column ``strategy`` of a voted
pair names the study and the hash of its votes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from avpref.datasets.metric_tables import SIDES, metrics_of_table, pairs_table
from avpref.datasets.tables import SKIPPED, conform
from avpref.datasets.votes.ballots import Rating, Vote, checks_of, counting, ratings_of
from avpref.datasets.votes.studies import OVERALL, Study
from avpref.datasets.votes.vote_results import by_item, majority, result_of
from avpref.domain import ALL_DIMENSIONS
from avpref.identity import digest

UNDECIDED, NOT_VOTED = "votes_undecided", "not_voted"
"""Reasons of prompts that votes leave without a pair."""

Sides = frozenset[str]
"""The two candidates of a pair, in no order."""


@dataclass(frozen=True)
class Opinions:
    """The majority of a study: the preferred candidate by pair of clips, empty where people are split or mostly tie."""

    study_id: str
    votes_hash: str
    preferred: Mapping[Sides, str]

    @property
    def label(self) -> str:
        """The study and its votes, as the column ``strategy`` names them."""
        return f"votes={self.study_id}@{self.votes_hash}"


@dataclass(frozen=True)
class VotedPairs:
    """``pairs`` with the votes applied; ``skipped``: prompts that lost their pair; numbers of pairs by what the votes did."""

    pairs: pa.Table
    skipped: pa.Table
    num_confirmed: int
    num_flipped: int
    num_undecided: int
    num_not_voted: int


def opinions_of(study: Study, votes: Iterable[Vote], names: Mapping[int, str]) -> Opinions:
    """The majority per item in the aspect ``overall`` (or the last one), without annotators who failed their checks."""
    listed = list(votes)
    last = counting(listed)
    failed = {place for place in names if checks_of(study, last, place).has_failed}
    ratings: list[Rating] = ratings_of(study, {key: vote for key, vote in last.items() if key[0] not in failed})
    aspects = study.options.aspects
    table = by_item(ratings, OVERALL if OVERALL in aspects else aspects[-1])
    preferred = {}
    for item in study.items:
        if item.item_id in table:
            value = majority(table[item.item_id].values())
            winner = {1: item.second.candidate_id, -1: item.first.candidate_id, 0: ""}[value]
            preferred[frozenset((item.first.candidate_id, item.second.candidate_id))] = winner
    return Opinions(study.study_id, result_of(study, listed, names).votes_hash, preferred)


def apply_votes(pairs: pa.Table, opinions: Opinions, keep_others: bool) -> VotedPairs:
    """Turn or drop the pairs that people voted on. ``keep_others``: keep those that nobody voted on; otherwise drop them too."""
    kept: list[dict[str, Any]] = []
    lost: dict[str, str] = {}
    counts = dict.fromkeys(("confirmed", "flipped", "undecided", "not_voted"), 0)
    for row in pairs.to_pylist():
        winner = opinions.preferred.get(frozenset((row["chosen"], row["rejected"])))
        if winner is None:
            counts["not_voted"] += 1
            if keep_others:
                kept.append(row)
            else:
                lost[row["prompt_id"]] = NOT_VOTED
        elif not winner:
            counts["undecided"] += 1
            lost[row["prompt_id"]] = UNDECIDED
        else:
            is_flipped = winner != row["chosen"]
            counts["flipped" if is_flipped else "confirmed"] += 1
            turned = _flipped(row) if is_flipped else row
            kept.append(turned | {"strategy": f"{row['strategy']} {opinions.label}"})
    remaining = {row["prompt_id"] for row in kept}
    reasons = [(prompt, reason) for prompt, reason in lost.items() if prompt not in remaining]
    schema = pairs_table(metrics_of_table(pairs))
    skipped = [{"prompt_id": prompt, "reason": reason, "detail": opinions.label} for prompt, reason in reasons]
    return VotedPairs(
        conform(schema, pa.Table.from_pylist(kept, schema.schema)),
        conform(SKIPPED, pa.Table.from_pylist(skipped, SKIPPED.schema)),
        *(counts[name] for name in ("confirmed", "flipped", "undecided", "not_voted")),
    )


def _flipped(row: Mapping[str, Any]) -> dict[str, Any]:
    """The pair with its sides changed: columns of sides are exchanged, margins change their sign, the id follows."""
    chosen, rejected = SIDES
    turned = dict(row)
    for name in row:
        if name.startswith(f"{chosen}_") or name == chosen:
            other = rejected + name.removeprefix(chosen)
            turned[name], turned[other] = row[other], row[name]
        elif name.startswith("margin_"):
            turned[name] = -row[name]
    dimension = row["dimension"]
    parts = [turned[chosen], turned[rejected], *([] if dimension == ALL_DIMENSIONS else [dimension])]
    return turned | {"pair_id": "x" + digest("pair", *parts)}
