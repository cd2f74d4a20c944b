"""The result of a study: shares of wins, ties and losses with intervals, agreement of annotators, agreement of rewards with people.

Intervals are percentiles of 2,000 bootstrap samples over items, because several ratings of one item are not independent. A tie counts as
half a win in ``win_rate``. Equal votes give equal results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avpref.datasets.votes.agreement import Ratings, cohen_kappa, common_items, equal_share, krippendorff_alpha
from avpref.datasets.votes.ballots import Rating, Vote, checks_of, counting, ratings_of
from avpref.datasets.votes.studies import ASPECT_OF_DIMENSION, OVERALL, Study
from avpref.identity import derive_seed, digest

SAMPLES, CONFIDENCE = 2000, 0.95
REWARD = "reward "
"""Prefix of rewards among the differences of an item; the dimension follows."""
FAILED_CHECKS = "fewer than half of the attention checks passed"


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AspectResult:
    """Ratings of one aspect: the second side wins, ties or loses. ``win_rate`` counts a tie as half a win."""

    aspect: str
    num_items: int
    num_ratings: int
    wins: Interval
    ties: Interval
    losses: Interval
    win_rate: Interval
    alpha_ordinal: float | None
    alpha_nominal: float | None


@dataclass(frozen=True)
class AnnotatorResult:
    """One annotator. ``exclusion``: why the votes do not count; empty where they do."""

    place: int
    name: str
    num_votes: int
    median_s: float | None
    checks_answered: int
    checks_passed: int
    exclusion: str


@dataclass(frozen=True)
class PairAgreement:
    """Two annotators and one aspect: items that both rated, share of equal answers, Cohen's kappa."""

    aspect: str
    first: str
    second: str
    num_items: int
    equal: float | None
    kappa: float | None


@dataclass(frozen=True)
class RewardAgreement:
    """A metric or reward against the majority of people in one aspect: share of the decided items on which both prefer one clip.

    Items are left out where people are split evenly or mostly tie; a reward that is equal on both sides counts as half.
    """

    name: str
    aspect: str
    category: str
    num_items: int
    agreement: Interval | None


@dataclass(frozen=True)
class StudyResult:
    """Everything that the votes of a study say so far. ``votes_hash`` identifies the counting votes."""

    study_id: str
    kind: str
    names: tuple[str, str]
    num_items: int
    num_complete: int
    votes_hash: str
    aspects: tuple[AspectResult, ...]
    categories: tuple[tuple[str, AspectResult], ...]
    annotators: tuple[AnnotatorResult, ...]
    pairs: tuple[PairAgreement, ...]
    rewards: tuple[RewardAgreement, ...]

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def of_aspect(self, aspect: str) -> AspectResult | None:
        """The result of an aspect; None where it has no rating."""
        return next((result for result in self.aspects if result.aspect == aspect), None)


def result_of(study: Study, votes: Iterable[Vote], names: Mapping[int, str]) -> StudyResult:
    """The result of ``votes``; ``names``: annotators by place. Annotators who failed their checks are listed and do not count."""
    last = counting(votes)
    annotators = tuple(_annotator(study, last, place, name) for place, name in sorted(names.items()))
    excluded = {annotator.place for annotator in annotators if annotator.exclusion}
    kept = {key: vote for key, vote in last.items() if key[0] not in excluded}
    ratings = ratings_of(study, kept)
    seed = derive_seed("votes", study.study_id)
    category = {item.item_id: item.category for item in study.items}
    categories = sorted({name for name in category.values() if name})
    aspects = study.options.aspects
    counted = _complete(study, ratings)
    return StudyResult(
        study.study_id,
        str(study.kind),
        study.names,
        len(study.items),
        counted,
        digest("votes", [[list(key), dict(sorted(vote.answers.items()))] for key, vote in sorted(kept.items())]),
        tuple(result for aspect in aspects if (result := _aspect(aspect, ratings, seed)) is not None),
        tuple(
            (name, result)
            for name in categories
            for aspect in aspects
            if (result := _aspect(aspect, [rating for rating in ratings if category[rating.item_id] == name], seed))
        ),
        annotators,
        tuple(
            _agreements(
                study, ratings, {annotator.place: annotator.name for annotator in annotators if not annotator.exclusion}
            )
        ),
        tuple(_rewards(study, ratings, ["", *categories], seed)),
    )


def by_item(ratings: Iterable[Rating], aspect: str) -> Ratings:
    """Item → annotator → value, for one aspect."""
    table: dict[str, dict[int, int]] = {}
    for rating in ratings:
        if rating.aspect == aspect:
            table.setdefault(rating.item_id, {})[rating.place] = rating.value
    return dict(sorted(table.items()))


def majority(values: Iterable[int]) -> int:
    """1 or −1 where more people prefer the second or the first clip than the other and than tie; otherwise 0."""
    listed = list(values)
    counts = {value: listed.count(value) for value in (-1, 0, 1)}
    best = max((-1, 1), key=lambda value: counts[value])
    return best if counts[best] > max(counts[0], counts[-best]) else 0


def _complete(study: Study, ratings: Sequence[Rating]) -> int:
    """Number of items with all their votes."""
    table = by_item(ratings, study.options.aspects[-1])
    return sum(len(values) >= study.options.raters for values in table.values())


def _aspect(aspect: str, ratings: Sequence[Rating], seed: int) -> AspectResult | None:
    table = by_item(ratings, aspect)
    if not table:
        return None
    counts = np.array([[list(by.values()).count(value) for value in (1, 0, -1)] for by in table.values()], np.float64)
    numbers = counts.sum(axis=1, keepdims=True)
    columns = [counts[:, 0], counts[:, 1], counts[:, 2], counts[:, 0] + counts[:, 1] / 2]
    wins, ties, losses, win_rate = (_interval(column, numbers[:, 0], seed) for column in columns)
    nominal, ordinal = krippendorff_alpha(table, "nominal"), krippendorff_alpha(table, "ordinal")
    return AspectResult(aspect, len(table), int(numbers.sum()), wins, ties, losses, win_rate, ordinal, nominal)


def _interval(sums: NDArray[np.float64], numbers: NDArray[np.float64], seed: int) -> Interval:
    """Sum of ``sums`` over sum of ``numbers``, and its bootstrap interval over items."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(sums), size=(SAMPLES, len(sums)))
    shares = sums[drawn].sum(axis=1) / numbers[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(sums.sum() / numbers.sum()), float(low), float(high))


def _annotator(study: Study, votes: Mapping[tuple[int, int], Vote], place: int, name: str) -> AnnotatorResult:
    own = [vote for (of_place, _), vote in votes.items() if of_place == place]
    checks = checks_of(study, votes, place)
    exclusion = FAILED_CHECKS if checks.has_failed else ""
    seconds = median(vote.seconds for vote in own) if own else None
    return AnnotatorResult(place, name, len(own), seconds, checks.answered, checks.passed, exclusion)


def _agreements(study: Study, ratings: Sequence[Rating], names: Mapping[int, str]) -> Iterable[PairAgreement]:
    for aspect in study.options.aspects:
        table = by_item(ratings, aspect)
        for first, second in combinations(sorted(names), 2):
            pairs = common_items(table, first, second)
            if pairs:
                equal, kappa = equal_share(pairs), cohen_kappa(pairs)
                yield PairAgreement(aspect, names[first], names[second], len(pairs), equal, kappa)


def _rewards(
    study: Study, ratings: Sequence[Rating], categories: Sequence[str], seed: int
) -> Iterable[RewardAgreement]:
    """Every metric and reward against the overall answers, and a dimension's reward against its own aspect too."""
    names = list(dict.fromkeys(name for item in study.items for name in item.differences))
    for name in names:
        own = ASPECT_OF_DIMENSION.get(name.removeprefix(REWARD)) if name.startswith(REWARD) else None
        for aspect in (OVERALL, own):
            if aspect not in study.options.aspects:
                continue
            table = by_item(ratings, aspect)
            for category in categories:
                yield _reward(study, name, aspect, category, table, seed)


def _reward(study: Study, name: str, aspect: str, category: str, table: Ratings, seed: int) -> RewardAgreement:
    agreements = []
    for item in study.items:
        preferred = majority(table.get(item.item_id, {}).values())
        if preferred and name in item.differences and category in ("", item.category):
            difference = item.differences[name]
            agreements.append(0.5 if difference == 0 else float((difference > 0) == (preferred > 0)))
    if not agreements:
        return RewardAgreement(name, aspect, category, 0, None)
    interval = _interval(np.array(agreements), np.ones(len(agreements)), seed)
    return RewardAgreement(name, aspect, category, len(agreements), interval)
