"""A study: which two clips of which prompts people compare, in whose queue, on which side, and with which attention checks.

A study is planned once and never changed; its id is a hash of everything in it. The first side is the baseline (reference, rejected), the
second the one that is hoped to be better (policy, chosen). Annotators see "left" and "right" alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from avpref.errors import ConfigError, TableError
from avpref.identity import derive_seed, digest

LAYOUT = 1
ASPECTS = ("video quality", "audio quality", "text", "synchrony", "overall")
OVERALL = "overall"
"""The aspect that attention checks look at."""
ASPECT_OF_DIMENSION = {"video": "video quality", "audio": "audio quality", "av": "synchrony"}
"""The aspect that a dimension's reward is compared with, beside ``overall``."""


class StudyKind(StrEnum):
    """Held-out clips of two models, or both sides of training pairs."""

    MODELS = "models"
    PAIRS = "pairs"


class Check(StrEnum):
    """An attention check: the same clip on both sides (a tie is right), or an item again with its sides changed."""

    NONE = ""
    SAME = "same"
    REPEAT = "repeat"


@dataclass(frozen=True)
class StudyClip:
    """A clip of a study: the run that holds it, its id, and its file in the run's media."""

    run_id: str
    candidate_id: str
    path: str
    sha256: str
    duration_s: float
    fps_hz: float
    width_px: int
    height_px: int


@dataclass(frozen=True)
class StudyItem:
    """Two clips of one prompt. ``differences``: name of a metric or reward → second − first, positive where second is better."""

    item_id: str
    prompt_id: str
    prompt: str
    category: str
    first: StudyClip
    second: StudyClip
    differences: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Showing:
    """One place in a queue: an item, the side of its first clip, and whether it is a check."""

    item_id: str
    first_is_left: bool
    check: Check = Check.NONE


@dataclass(frozen=True)
class StudyOptions:
    """Votes per item, places for annotators, checks per annotator, aspects in the order in which they are asked, seed."""

    raters: int = 3
    annotators: int = 3
    checks: int = 4
    aspects: tuple[str, ...] = ASPECTS
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A planned study. ``names``: of the first and the second side. ``source``: versions of the tables that it was planned from.

    ``queues``: one per place for an annotator.
    """

    run_id: str
    kind: StudyKind
    names: tuple[str, str]
    source: Mapping[str, str]
    options: StudyOptions
    items: tuple[StudyItem, ...] = field(repr=False)
    queues: tuple[tuple[Showing, ...], ...] = field(repr=False)
    study_id: str = ""

    @property
    def by_id(self) -> dict[str, StudyItem]:
        """The items by their ids."""
        return {item.item_id: item for item in self.items}

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON; :func:`study_of` reads them back."""
        return {"layout": LAYOUT, **asdict(self)}


def item_id(first: StudyClip, second: StudyClip) -> str:
    """Identity of an item: its two clips in their order."""
    return "i" + digest("study item", first.run_id, first.candidate_id, second.run_id, second.candidate_id)


def plan_study(draft: Study) -> Study:
    """``draft`` with queues and id. Every item is shown to ``raters`` annotators; queues differ by one item at most.

    Sides are balanced: an item's first clip is left for half of its raters, give or take one, and in every queue the sides are as
    even as that allows. Equal drafts give equal studies. Raises ConfigError for options that cannot be served.
    """
    options = draft.options
    if not 1 <= options.raters <= options.annotators:
        found = f"{options.raters} raters per item and {options.annotators} annotators"
        raise ConfigError(found, "at least one rater, and an annotator for each", "--annotators N with N >= --raters")
    if not draft.items:
        raise ConfigError("no item to compare", "at least one pair of clips", "choose other runs, or fewer conditions")
    if not options.aspects or len(set(options.aspects)) != len(options.aspects):
        raise ConfigError(f"aspects {', '.join(options.aspects)}", "distinct names, at least one", "--aspects overall")
    queues = tuple(_with_checks(queue, place, options) for place, queue in enumerate(_balanced(draft.items, options)))
    planned = replace(draft, queues=queues)
    return replace(planned, study_id="s" + digest("study", {**planned.document(), "study_id": ""}))


def _balanced(items: Sequence[StudyItem], options: StudyOptions) -> list[list[Showing]]:
    """Queues without checks: raters are those with the shortest queues, sides go where they are missing most."""
    seed = options.seed
    queues: list[list[Showing]] = [[] for _ in range(options.annotators)]
    surplus = [0] * options.annotators
    for item in sorted(items, key=lambda item: derive_seed("order of items", seed, item.item_id)):
        drawn = [derive_seed("rater", seed, item.item_id, place) for place in range(options.annotators)]
        shortest = sorted((len(queue), drawn[place], place) for place, queue in enumerate(queues))
        raters = [place for _, _, place in shortest[: options.raters]]
        lean = sum(surplus[place] for place in raters) or sum(surplus)
        num_left = options.raters // 2 + (options.raters % 2 and lean <= 0)
        needing = sorted((surplus[place], derive_seed("side", seed, item.item_id, place), place) for place in raters)
        for rank, (_, _, place) in enumerate(needing):
            is_left = rank < num_left
            surplus[place] += 1 if is_left else -1
            queues[place].append(Showing(item.item_id, is_left))
    return queues


def _with_checks(queue: Sequence[Showing], place: int, options: StudyOptions) -> tuple[Showing, ...]:
    """The queue in an order of its own, with checks between: by turns the same clip twice, and an item again, sides changed."""
    seed = options.seed
    ordered = sorted(queue, key=lambda shown: derive_seed("queue", seed, place, shown.item_id))
    drawn = sorted(queue, key=lambda shown: derive_seed("checked", seed, place, shown.item_id))[: options.checks]
    for number, shown in enumerate(drawn):
        check = Check.SAME if number % 2 == 0 else Check.REPEAT
        added = Showing(shown.item_id, not shown.first_is_left, check)
        at = derive_seed("place of check", seed, place, number) % (len(ordered) + 1)
        ordered.insert(at, added)
    return tuple(ordered)


def study_of(document: Mapping[str, Any]) -> Study:
    """The study in a document. Raises TableError for one that this product did not write, or whose id does not fit its content."""
    try:
        plain = {key: value for key, value in document.items() if key != "layout"}
        study = Study(
            **plain
            | {
                "kind": StudyKind(plain["kind"]),
                "names": tuple(plain["names"]),
                "options": StudyOptions(**plain["options"] | {"aspects": tuple(plain["options"]["aspects"])}),
                "items": tuple(
                    StudyItem(**item | {side: StudyClip(**item[side]) for side in ("first", "second")})
                    for item in plain["items"]
                ),
                "queues": tuple(
                    tuple(Showing(**shown | {"check": Check(shown["check"])}) for shown in queue)
                    for queue in plain["queues"]
                ),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"a study that cannot be read: {error!r}", "one that avpref votes plan wrote") from error
    expected = "s" + digest("study", {**study.document(), "study_id": ""})
    if study.study_id != expected:
        found = f"study {study.study_id} has the content of {expected}"
        raise TableError(found, "a study that nobody changed", "restore its file from a copy, or plan it again")
    return study
