"""Studies: balanced, blind, derived; votes: complete, revised, checked; results: intervals, agreement, categories."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from planned_studies import Opinion, draft_of, votes_of

from avpref.datasets.votes.ballots import (
    Vote,
    check_vote,
    checks_of,
    clips_of,
    counting,
    next_position,
    ratings_of,
    vote_of,
)
from avpref.datasets.votes.studies import Check, StudyOptions, plan_study, study_of
from avpref.datasets.votes.vote_results import FAILED_CHECKS, majority, result_of
from avpref.errors import ConfigError, InputError, TableError

NAMES = {0: "ada", 1: "bo", 2: "cy"}


@pytest.mark.parametrize(
    ("raters", "annotators", "items"), [(3, 3, 40), (3, 7, 50), (1, 4, 21), (2, 5, 33), (4, 4, 10)]
)
@pytest.mark.parametrize("seed", [0, 11])
def test_items_and_sides_are_balanced(raters: int, annotators: int, items: int, seed: int) -> None:
    study = plan_study(draft_of(items, StudyOptions(raters, annotators, 0, seed=seed)))
    shown = [(place, showing) for place, queue in enumerate(study.queues) for showing in queue]
    assert Counter(showing.item_id for _, showing in shown) == {item.item_id: raters for item in study.items}
    assert all(len({showing.item_id for showing in queue}) == len(queue) for queue in study.queues)
    lengths = [len(queue) for queue in study.queues]
    assert max(lengths) - min(lengths) <= 1
    left = Counter(showing.item_id for _, showing in shown if showing.first_is_left)
    assert all(abs(2 * left[item.item_id] - raters) <= 1 for item in study.items)
    assert abs(2 * sum(left.values()) - len(shown)) <= annotators
    for queue in study.queues:
        assert abs(2 * sum(showing.first_is_left for showing in queue) - len(queue)) <= 3


def test_queues_have_orders_of_their_own() -> None:
    study = plan_study(draft_of(40, StudyOptions(checks=0)))
    orders = [[showing.item_id for showing in queue] for queue in study.queues]
    assert len({tuple(order) for order in orders}) == 3
    places = np.array([[order.index(item.item_id) for item in study.items] for order in orders])
    assert abs(np.corrcoef(places)[np.triu_indices(3, 1)]).max() < 0.5


def test_checks_are_of_both_kinds_and_know_their_answer() -> None:
    study = plan_study(draft_of(20, StudyOptions(checks=4)))
    for place, queue in enumerate(study.queues):
        kinds = Counter(showing.check for showing in queue)
        assert kinds[Check.SAME] == 2 and kinds[Check.REPEAT] == 2
        for showing in queue:
            left, right = clips_of(study, showing)
            assert (left == right) == (showing.check == Check.SAME)
            if showing.check == Check.REPEAT:
                plain = next(o for o in queue if o.item_id == showing.item_id and o.check == Check.NONE)
                assert clips_of(study, plain) == (right, left)
        attentive = counting(votes_of(study, place, lambda item, aspect: 1))
        assert checks_of(study, attentive, place).passed == 4


def test_a_plan_is_derived_and_seeds_change_it() -> None:
    first, second = plan_study(draft_of(12)), plan_study(draft_of(12))
    assert first == second and len(first.study_id) == 17
    assert plan_study(draft_of(12, StudyOptions(seed=1))).study_id != first.study_id
    assert plan_study(draft_of(13)).study_id != first.study_id


def test_a_study_survives_json_and_a_changed_one_is_refused() -> None:
    study = plan_study(draft_of(5))
    document = json.loads(json.dumps(study.document()))
    assert study_of(document) == study
    document["queues"][0][0]["first_is_left"] ^= True
    with pytest.raises(TableError, match="has the content of"):
        study_of(document)
    with pytest.raises(TableError, match="cannot be read"):
        study_of({"layout": 1})


@pytest.mark.parametrize(
    ("items", "options"),
    [(3, StudyOptions(4, 3)), (3, StudyOptions(0, 3)), (0, StudyOptions()), (3, StudyOptions(aspects=("a", "a")))],
)
def test_a_study_that_cannot_be_is_refused(items: int, options: StudyOptions) -> None:
    with pytest.raises(ConfigError):
        plan_study(draft_of(items, options))


def one_vote(**changes: object) -> Vote:
    study = plan_study(draft_of(3))
    plain = Vote(study.study_id, 0, 0, 0, "ada", dict.fromkeys(study.options.aspects, "tie"), 5.0, (2.0, 2.0))
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"place": 9}, InputError),
        ({"place": -1}, InputError),
        ({"position": 99}, InputError),
        ({"revision": -1}, ConfigError),
        ({"answers": {"overall": "left"}}, ConfigError),
        ({"answers": {}}, ConfigError),
        ({"heard_s": (2.0, 0.1)}, ConfigError),
        ({"heard_s": (float("nan"), 2.0)}, ConfigError),
    ],
)
def test_a_wrong_vote_is_refused(changes: dict[str, object], error: type[Exception]) -> None:
    study = plan_study(draft_of(3))
    check_vote(study, one_vote())
    with pytest.raises(error):
        check_vote(study, one_vote(**changes))


def test_the_last_revision_counts_and_a_withdrawn_one_does_not() -> None:
    study = plan_study(draft_of(3, StudyOptions(checks=0)))
    votes = [one_vote(revision=number) for number in range(3)]
    assert counting(reversed(votes)) == {(0, 0): votes[2]}
    withdrawn = replace(votes[0], revision=3, answers={}, is_withdrawn=True)
    assert counting([*votes, withdrawn]) == {}
    assert next_position(study, counting(votes), 0) == 1 and next_position(study, {}, 0) == 0
    assert vote_of(json.loads(json.dumps(votes[1].document()))) == votes[1]


def always(value: int) -> Opinion:
    return lambda item, aspect: value


def sometimes(generator: np.random.Generator) -> Opinion:
    return lambda item, aspect: 1 if generator.random() < 0.6 else -1


def test_answers_speak_of_clips_and_not_of_sides() -> None:
    study = plan_study(draft_of(10, StudyOptions(checks=0)))
    for wanted in (-1, 0, 1):
        votes = counting(votes_of(study, 1, always(wanted)))
        assert {rating.value for rating in ratings_of(study, votes)} == {wanted}


def test_results_count_wins_with_intervals_and_rewards_with_people() -> None:
    study = plan_study(draft_of(60, StudyOptions(checks=2)))
    better = {item.item_id: item.differences["reward video"] > 0 for item in study.items}
    votes = [
        vote
        for place in range(3)
        for vote in votes_of(study, place, lambda item, aspect: 0 if aspect == "text" else (1 if better[item] else -1))
    ]
    result = result_of(study, votes, NAMES)
    overall = result.of_aspect("overall")
    assert overall is not None and overall.num_ratings == 180 and result.num_complete == 60
    share = sum(better.values()) / 60
    assert overall.wins.value == pytest.approx(share) == overall.win_rate.value
    assert overall.wins.low < share < overall.wins.high and overall.alpha_ordinal == pytest.approx(1)
    text = result.of_aspect("text")
    assert text is not None and text.ties.value == 1 and text.win_rate.value == 0.5 and text.alpha_ordinal is None
    agreement = {(row.name, row.aspect): row for row in result.rewards if not row.category}
    assert agreement["reward video", "overall"].agreement.value == 1  # type: ignore[union-attr]
    assert agreement["reward video", "video quality"].num_items == 60
    chance = agreement["noise", "overall"].agreement
    assert chance is not None and chance.low < 0.5 < chance.high
    assert {row.category for row in result.rewards} == {"", "animals", "tools"}
    assert {name for name, _ in result.categories} == {"animals", "tools"}
    assert all(row.kappa == pytest.approx(1) for row in result.pairs if row.aspect == "overall")
    assert result_of(study, reversed(votes), NAMES) == result


def test_intervals_cover_the_true_share() -> None:
    """A share of 0.6 with items as the unit: the 95 % interval contains it in about 95 of 100 studies."""
    covered = 0
    for seed in range(25):
        study = plan_study(draft_of(80, StudyOptions(1, 1, 0, aspects=("overall",), seed=seed)))
        generator = np.random.default_rng(seed)
        votes = votes_of(study, 0, sometimes(generator))
        wins = result_of(study, votes, {0: "ada"}).aspects[0].wins
        covered += wins.low <= 0.6 <= wins.high
    assert covered >= 21


def test_who_fails_the_checks_is_listed_and_does_not_count() -> None:
    study = plan_study(draft_of(20, StudyOptions(checks=4)))
    votes = [vote for place in (0, 1) for vote in votes_of(study, place, lambda item, aspect: 1)]
    careless = [
        replace(vote, answers=dict.fromkeys(vote.answers, "left"))
        for vote in votes_of(study, 2, lambda item, aspect: 1)
    ]
    result = result_of(study, [*votes, *careless], NAMES)
    assert [row.exclusion for row in result.annotators] == ["", "", FAILED_CHECKS]
    overall = result.of_aspect("overall")
    assert overall is not None and overall.wins.value == 1.0 and result.num_complete == 0


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 1, -1], 1), ([1, 0, 0], 0), ([1, -1], 0), ([], 0), ([-1, 0, -1], -1), ([1], 1)]
)
def test_a_majority_is_more_than_any_other_answer(values: list[int], expected: int) -> None:
    assert majority(values) == expected
