"""Mean, standard deviation and quantiles have the bits of NumPy's functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.datasets import population
from avpref.datasets.population import mean_and_std, quantiles

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@pytest.mark.parametrize("leaf", [128, 1 << 14])
@pytest.mark.parametrize("count", [2, 7, 8, 127, 129, 1000, 16_385, 50_001, 100_003])
def test_mean_and_deviation_of_any_length(monkeypatch, count, leaf):
    monkeypatch.setattr(population, "LEAF", leaf)
    values = np.random.default_rng(count).normal(3, 7, count)
    assert mean_and_std(values) == (values.mean(), values.std(ddof=1))


@settings(max_examples=200)
@given(values=st.lists(st.floats(-1e6, 1e6) | st.integers(-2, 2).map(float), min_size=1, max_size=40))
def test_quantiles_of_any_numbers(values):
    numbers = np.array(values)
    expected = np.quantile(numbers, SHARES)
    assert list(quantiles(numbers, SHARES, np.empty(len(numbers) + 1))) == expected.tolist()
    assert numbers.tolist() == values, "the numbers keep their order"


def test_quantiles_of_many_numbers():
    values = np.random.default_rng(1).normal(size=30_011)
    assert list(quantiles(values, SHARES, np.empty(len(values)))) == np.quantile(values, SHARES).tolist()


def test_an_overflow_is_not_finite():
    values = np.array([1e200, -1e200, 0.0])
    assert not math.isfinite(mean_and_std(values)[1])
