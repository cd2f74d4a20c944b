"""Votes: an annotator's answers about one place of a queue. A later revision replaces an earlier one; nothing is overwritten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from avpref.datasets.votes.studies import OVERALL, Check, Showing, Study, StudyClip
from avpref.errors import ConfigError, InputError, TableError

HEARD_SHARE = 0.5
"""The share of a clip that must have been played with its sound before a vote counts."""


class Answer(StrEnum):
    """Which side is better in an aspect."""

    LEFT = "left"
    TIE = "tie"
    RIGHT = "right"


@dataclass(frozen=True)
class Vote:
    """Answers by aspect; ``is_withdrawn``: taken back, with no answers. ``heard_s``: seconds played with the sound of left and right.

    ``seconds``: time on the page. ``saved_at``: when the server took it (UTC, ISO 8601).
    """

    study_id: str
    place: int
    position: int
    revision: int
    annotator: str
    answers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    heard_s: tuple[float, float] = (0.0, 0.0)
    is_withdrawn: bool = False
    saved_at: str = ""

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.place:03d}-{self.position:05d}-{self.revision:03d}.json"

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def is_same_as(self, other: Vote) -> bool:
        """Whether both say the same, whenever they came: a vote that is sent twice counts once."""
        return (self.answers, self.is_withdrawn, self.annotator) == (other.answers, other.is_withdrawn, other.annotator)


def vote_of(document: Mapping[str, Any]) -> Vote:
    """The vote in a document. Raises TableError for one that this product did not write."""
    try:
        left_s, right_s = document["heard_s"]
        return Vote(**{**document, "heard_s": (float(left_s), float(right_s))})
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"a vote that cannot be read: {error!r}", "one that this product wrote") from error


def showing_at(study: Study, place: int, position: int) -> Showing:
    """The showing at a position of a queue. Raises InputError for a place or position that the study does not have."""
    if not (0 <= place < len(study.queues) and 0 <= position < len(study.queues[place])):
        found = f"study {study.study_id} has no position {position} in queue {place}"
        raise InputError(found, "a pair of clips of this study", "reload the voting page")
    return study.queues[place][position]


def clips_of(study: Study, shown: Showing) -> tuple[StudyClip, StudyClip]:
    """The left and the right clip of a showing."""
    item = study.by_id[shown.item_id]
    second = item.first if shown.check == Check.SAME else item.second
    return (item.first, second) if shown.first_is_left else (second, item.first)


def check_vote(study: Study, vote: Vote) -> None:
    """Raises InputError for a vote on something that is not in the study, ConfigError for incomplete answers or an unplayed clip."""
    shown = showing_at(study, vote.place, vote.position)
    if not 0 <= vote.revision < 1000:
        raise ConfigError(f"revision {vote.revision}", "a number from 0 to 999", "reload the voting page")
    if vote.is_withdrawn:
        return
    if set(vote.answers) != set(study.options.aspects) or not set(vote.answers.values()) <= set(Answer):
        expected = f"left, tie or right for each of {', '.join(study.options.aspects)}"
        raise ConfigError(f"answers {dict(vote.answers)}", expected, "answer every aspect")
    for heard_s, clip, side in zip(vote.heard_s, clips_of(study, shown), ("left", "right"), strict=True):
        if not heard_s >= HEARD_SHARE * clip.duration_s - 0.05:
            found = f"the {side} clip was played with its sound for {heard_s:.1f} of {clip.duration_s:.1f} s"
            raise ConfigError(found, "half of each clip or more", "play both clips with their sounds")


def counting(votes: Iterable[Vote]) -> dict[tuple[int, int], Vote]:
    """The last revision at each (place, position), without those that were taken back."""
    last: dict[tuple[int, int], Vote] = {}
    for vote in sorted(votes, key=lambda vote: vote.revision):
        last[vote.place, vote.position] = vote
    return {key: vote for key, vote in sorted(last.items()) if not vote.is_withdrawn}


@dataclass(frozen=True)
class Rating:
    """One answer of one annotator about an item. ``value``: 1 where the second clip is better, −1 where the first is, 0 for a tie."""

    item_id: str
    place: int
    aspect: str
    value: int


def ratings_of(study: Study, votes: Mapping[tuple[int, int], Vote]) -> list[Rating]:
    """The ratings of the counting ``votes``, without those of checks."""
    ratings = []
    for (place, position), vote in votes.items():
        shown = study.queues[place][position]
        if shown.check == Check.NONE:
            ratings += [
                Rating(shown.item_id, place, aspect, _value(answer, shown)) for aspect, answer in vote.answers.items()
            ]
    return ratings


@dataclass(frozen=True)
class CheckResult:
    """Attention checks of one annotator: how many were answered, and how many as an attentive person would."""

    answered: int
    passed: int

    @property
    def has_failed(self) -> bool:
        """Whether there are two answers or more, and fewer than half of them are right."""
        return self.answered >= 2 and self.passed * 2 < self.answered


def checks_of(study: Study, votes: Mapping[tuple[int, int], Vote], place: int) -> CheckResult:
    """The checks of the annotator at ``place``, by the aspect ``overall`` (or the last one where it is not asked).

    The same clip twice must be a tie. An item that is shown again must get the same answer for the same clip; it counts once both
    showings are answered.
    """
    aspects = study.options.aspects
    aspect = OVERALL if OVERALL in aspects else aspects[-1]
    queue = study.queues[place]
    values = {
        position: _value(vote.answers[aspect], queue[position])
        for (of_place, position), vote in votes.items()
        if of_place == place
    }
    plain = {
        queue[position].item_id: value for position, value in values.items() if queue[position].check == Check.NONE
    }
    outcomes: list[bool] = []
    for position, value in values.items():
        shown = queue[position]
        if shown.check == Check.SAME:
            outcomes.append(value == 0)
        elif shown.check == Check.REPEAT and shown.item_id in plain:
            outcomes.append(value == plain[shown.item_id])
    return CheckResult(len(outcomes), sum(outcomes))


def next_position(study: Study, votes: Mapping[tuple[int, int], Vote], place: int) -> int | None:
    """The first position of a queue without a counting vote; None where all have one."""
    positions: Sequence[int] = range(len(study.queues[place]))
    return next((position for position in positions if (place, position) not in votes), None)


def _value(answer: str, shown: Showing) -> int:
    if answer == Answer.TIE:
        return 0
    return 1 if (answer == Answer.RIGHT) == shown.first_is_left else -1
