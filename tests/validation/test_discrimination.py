"""Discrimination: numbers against their definitions, ties, missing numbers, and intervals that resample recordings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from present import present
from scipy.stats import mannwhitneyu, spearmanr

from avpref.datasets.evidence.evaluation import BootstrapSettings
from avpref.validation.discrimination import (
    DelaySeries,
    DiscriminationData,
    auroc,
    discriminate,
    monotonicity,
    spearman,
    tie_of,
)

SETTINGS = BootstrapSettings(samples=500, confidence=0.95, seed=3)
GRADES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def contest(positive, negative, positive_of=None, source=None) -> DiscriminationData:
    return DiscriminationData(
        np.array(positive, np.float64),
        np.arange(len(positive)) if source is None else np.array(source),
        np.array(negative, np.float64),
        np.arange(len(negative)) % len(positive) if positive_of is None else np.array(positive_of),
    )


@given(GRADES, GRADES)
def test_auroc_is_the_normalised_rank_sum(positive, negative) -> None:
    found = auroc(np.array(positive), np.array(negative))
    expected = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert found == pytest.approx(expected)
    assert found + auroc(np.array(negative), np.array(positive)) == pytest.approx(1.0)


def test_auroc_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        auroc(np.array([]), np.array([1.0]))


@given(st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float)), min_size=3, max_size=12))
def test_spearman_is_the_known_one_and_0_for_constants(points) -> None:
    first, second = (np.array(column) for column in zip(*points, strict=True))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert spearman(first, second) == 0.0
    else:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)


@given(GRADES, st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30))
def test_discrimination_agrees_with_counting(positive, negative) -> None:
    given_contest = contest(positive, negative)
    found = discriminate(given_contest, 0.0, SETTINGS)
    pairs = [(positive[of], value) for of, value in zip(given_contest.positive_of, negative, strict=True)]
    assert present(found.accuracy_strict).value == pytest.approx(np.mean([mine > other for mine, other in pairs]))
    assert present(found.accuracy_tolerant).value == pytest.approx(np.mean([mine >= other for mine, other in pairs]))
    assert present(found.auroc).value == pytest.approx(auroc(np.array(positive), np.array(negative)))
    assert (found.num_positives, found.num_negatives, found.num_pairs) == (len(positive), len(negative), len(negative))
    for estimate in map(present, (found.auroc, found.accuracy_strict, found.accuracy_tolerant)):
        if len(positive) > 1:
            assert 0.0 <= present(estimate.low) <= present(estimate.high) <= 1.0
        else:
            assert (estimate.low, estimate.high) == (None, None)


def test_clips_without_a_number_are_counted_and_take_part_in_nothing() -> None:
    nan = float("nan")
    found = discriminate(contest([1.0, nan, 3.0], [0.0, 0.0, nan, 5.0], [0, 1, 2, 2]), 0.0, SETTINGS)
    assert (found.positives_without, found.negatives_without) == (1, 1)
    assert (found.num_positives, found.num_negatives, found.num_pairs) == (2, 3, 2)
    assert (
        present(found.accuracy_strict).value == 0.5
    )  # 1 > 0, 3 < 5; the negative of the clip without a number has no pair
    assert present(found.auroc).value == pytest.approx(4 / 6)
    nothing = discriminate(contest([nan, nan], [1.0, 2.0]), 0.0, SETTINGS)
    assert (nothing.auroc, nothing.accuracy_strict, nothing.num_pairs) == (None, None, 0)


def test_rounding_is_a_tie_and_a_difference_is_not() -> None:
    values = random().normal(size=40)
    rounded = values + random(1).choice([-1e-9, 1e-9], size=40)
    found = discriminate(contest(values, rounded), tie_of(values), SETTINGS)
    assert (present(found.accuracy_strict).value, present(found.accuracy_tolerant).value) == (0.0, 1.0)
    worse = discriminate(contest(values, values - 1e-3), tie_of(values), SETTINGS)
    assert present(worse.accuracy_strict).value == 1.0
    assert tie_of(np.array([np.nan])) == 0.0


def test_equal_input_gives_equal_intervals_and_another_seed_others() -> None:
    drawn = contest(random(2).normal(1, 1, 30), random(3).normal(0, 1, 90))
    other = BootstrapSettings(SETTINGS.samples, SETTINGS.confidence, seed=4)
    assert discriminate(drawn, 0.0, SETTINGS) == discriminate(drawn, 0.0, SETTINGS)
    assert discriminate(drawn, 0.0, SETTINGS).auroc != discriminate(drawn, 0.0, other).auroc


def test_copies_of_a_recordings_rows_do_not_narrow_the_interval() -> None:
    """Ten windows that all say the same are one observation."""
    once = contest(random(5).normal(0.5, 1, 12), random(6).normal(0, 1, 12))
    often = contest(
        np.repeat(once.positive, 10), np.repeat(once.negative, 10), np.arange(120), source=np.repeat(np.arange(12), 10)
    )
    first, second = (discriminate(each, 0.0, SETTINGS) for each in (once, often))
    assert first.accuracy_strict == second.accuracy_strict
    assert first.auroc == second.auroc
    assert second.num_sources == 12 and second.num_positives == 120


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Means over recordings whose windows agree: 95 % intervals, 200 repetitions, 40 recordings of 3 windows."""
    covered = 0
    for repetition in range(200):
        draw = random(1000 + repetition)
        is_right = np.repeat(draw.random(40) < 0.7, 3)
        made = contest(is_right.astype(float), np.full(120, 0.5), np.arange(120), source=np.repeat(np.arange(40), 3))
        estimate = present(discriminate(made, 0.0, BootstrapSettings(300, 0.95, repetition)).accuracy_strict)
        covered += present(estimate.low) <= 0.7 <= present(estimate.high)
    assert 0.88 <= covered / 200 <= 0.99


def test_monotonicity_is_1_for_falling_goodness_and_0_for_none() -> None:
    step = np.array([0.0, 0.1, 0.5, 1.0])
    right = [DelaySeries(source, step, np.exp(-step) + source) for source in range(4)]
    assert present(monotonicity(right, 0.0, SETTINGS).estimate).value == pytest.approx(1.0)
    wrong = [DelaySeries(source, step, step) for source in range(4)]
    assert present(monotonicity(wrong, 0.0, SETTINGS).estimate).value == pytest.approx(-1.0)
    flat = monotonicity([DelaySeries(0, step, np.full(4, 2.0)), *right[1:2]], 0.0, SETTINGS)
    assert (present(flat.estimate).value, flat.num_constant, flat.num_series) == (pytest.approx(0.5), 1, 2)


def test_series_need_three_steps_with_a_number() -> None:
    step, nan = np.array([0.0, 0.1, 0.5, 1.0]), float("nan")
    kept = DelaySeries(0, step, np.array([3.0, nan, 2.0, 1.0]))
    lost = DelaySeries(1, step, np.array([3.0, nan, nan, 1.0]))
    found = monotonicity([kept, lost], 0.0, SETTINGS)
    assert (found.num_series, found.num_without) == (1, 1)
    assert present(found.estimate).value == pytest.approx(1.0) and present(found.estimate).low is None
    assert monotonicity([lost], 0.0, SETTINGS).estimate is None
    assert monotonicity([], 0.0, SETTINGS).estimate is None


def test_steps_are_compared_by_rank_alone() -> None:
    goodness = np.array([5.0, 4.0, 4.5, 1.0])
    found = [
        present(monotonicity([DelaySeries(0, step, scale(goodness))], 0.0, SETTINGS).estimate).value
        for step, scale in itertools.product(
            (np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.1, 10.0, 11.0])), (np.array, np.exp)
        )
    ]
    assert found == pytest.approx([found[0]] * 4)
