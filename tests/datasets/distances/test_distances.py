"""Distances where theory gives the number, and sets that have none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from avpref.datasets.distances.class_probabilities import divergence, inception_score
from avpref.datasets.distances.frechet import frechet_distance, moments
from avpref.datasets.distances.kernel_distance import kernel_distance
from avpref.errors import InputError


def drawn(rows: int, dims: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, dims)) @ random.standard_normal((dims, dims)) + random.standard_normal(dims)


@pytest.mark.parametrize(
    ("rows", "others", "dims"), [(60, 50, 8), (5, 9, 8), (40, 6, 8), (6, 40, 8), (9, 9, 9), (2, 2, 30)]
)
def test_frechet_distance_is_that_of_the_matrix_square_root(rows: int, others: int, dims: int) -> None:
    first, second = drawn(rows, dims, 1), drawn(others, dims, 2)
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = linalg.sqrtm(one)
    overlap = np.sqrt(linalg.eigvals(root @ two @ root).real.clip(0)).sum().real
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + np.trace(one) + np.trace(two) - 2 * overlap
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [5, 40])
def test_a_set_is_at_distance_zero_of_itself_and_the_shift_is_squared(rows: int) -> None:
    features = drawn(rows, 8, 3)
    assert frechet_distance(moments(features), moments(features)) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(moments(features), moments(features + 2.0)) == pytest.approx(8 * 4.0, rel=1e-6)


def test_features_that_depend_on_each_other() -> None:
    first, second = drawn(50, 4, 4), drawn(60, 4, 5)
    doubled = frechet_distance(moments(np.hstack([first, first])), moments(np.hstack([second, second])))
    assert doubled == pytest.approx(2 * frechet_distance(moments(first), moments(second)), rel=1e-6)


@pytest.mark.parametrize("bad", [np.ones((1, 4)), np.ones(4), np.full((3, 4), np.nan), np.full((3, 4), np.inf)])
def test_sets_that_have_no_distance_are_refused(bad: np.ndarray) -> None:
    good = drawn(5, 4, 6)
    with pytest.raises(InputError):
        moments(bad)
    with pytest.raises(InputError):
        kernel_distance(good, bad, centred=True)


def test_features_of_two_networks_are_refused() -> None:
    with pytest.raises(InputError, match="features of 4 and of 5 values"):
        frechet_distance(moments(drawn(6, 4, 7)), moments(drawn(6, 5, 7)))


def test_a_centred_kernel_distance_does_not_see_a_shift() -> None:
    first = drawn(30, 5, 8)
    centred = [kernel_distance(first, first + shift, centred=True) for shift in (0.0, 3.0)]
    assert centred[0] == pytest.approx(centred[1], abs=1e-9)
    assert kernel_distance(first, first + 3.0, centred=False) > kernel_distance(first, first, centred=False) + 1


def test_the_inception_score_counts_certain_classes() -> None:
    certain = np.tile(np.eye(5) * 50, (20, 1))
    assert inception_score(certain, num_splits=1).mean == pytest.approx(5)
    assert inception_score(np.zeros((20, 5))).mean == pytest.approx(1)


def test_the_divergence_of_equal_logits_is_zero_and_sets_are_matched() -> None:
    logits = drawn(6, 4, 9)
    assert divergence(logits, logits, "av_benchmark") == pytest.approx(0, abs=1e-12)
    assert divergence(logits + 1.0, logits, "av_benchmark") == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="compare the same clips"):
        divergence(logits[:5], logits, "av_benchmark")
