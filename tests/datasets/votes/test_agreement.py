"""Agreement of annotators against published values and against a computation from the definition."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.datasets.votes.agreement import Level, cohen_kappa, common_items, equal_share, krippendorff_alpha

PUBLISHED = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Example of K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), part D: four observers, twelve units."""


def table(text: str) -> dict[str, dict[int, int]]:
    rows = [line.split() for line in text.strip().splitlines()]
    return {
        str(unit): {observer: int(row[unit]) for observer, row in enumerate(rows) if row[unit] != "."}
        for unit in range(len(rows[0]))
    }


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_has_the_published_values(level: Level, published: float) -> None:
    alpha = krippendorff_alpha(table(PUBLISHED), level)
    assert alpha == pytest.approx(published, abs=5e-4)


def alpha_by_definition(ratings: dict[str, dict[int, int]], level: Level) -> float | None:
    """Mean difference within items against that between all ratings, pair by pair, without a coincidence matrix."""
    units = [list(by.values()) for by in ratings.values() if len(by) > 1]
    pooled = [value for unit in units for value in unit]

    def difference(value: int, other: int) -> float:
        if level == "nominal":
            return float(value != other)
        if level == "interval":
            return float((value - other) ** 2)
        low, high = min(value, other), max(value, other)
        between = sum(low <= value <= high for value in pooled)
        return (between - (pooled.count(low) + pooled.count(high)) / 2) ** 2 if low != high else 0.0

    if len(set(pooled)) < 2:
        return None
    observed = sum(sum(difference(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(
        pooled
    )
    expected = sum(difference(a, b) for a, b in permutations(pooled, 2)) / (len(pooled) * (len(pooled) - 1))
    return 1 - observed / expected


tables = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.dictionaries(st.integers(0, 4), st.integers(-1, 1), max_size=5),
    max_size=8,
)


@given(tables, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_that_of_the_definition(ratings: dict[str, dict[int, int]], level: Level) -> None:
    expected = alpha_by_definition(ratings, level)
    alpha = krippendorff_alpha(ratings, level)
    assert (alpha is None) == (expected is None)
    if alpha is not None and expected is not None:
        assert alpha == pytest.approx(expected, abs=1e-9)


def test_alpha_of_chance_is_near_zero_and_of_agreement_one() -> None:
    generator = np.random.default_rng(0)
    chance = {str(unit): {a: int(generator.integers(-1, 2)) for a in range(3)} for unit in range(3000)}
    assert abs(krippendorff_alpha(chance, "ordinal") or 1) < 0.03
    equal = {str(unit): dict.fromkeys(range(3), unit % 3 - 1) for unit in range(30)}
    assert krippendorff_alpha(equal, "ordinal") == 1.0


def test_kappa_has_the_value_of_a_textbook_table() -> None:
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert equal_share(pairs) == pytest.approx(0.7)
    assert cohen_kappa([(1, 1)] * 3) is None and cohen_kappa([]) is None and equal_share([]) is None


def test_only_items_of_both_are_common() -> None:
    ratings = {"a": {0: 1, 1: 0}, "b": {0: 1}, "c": {1: 1, 2: 1}}
    assert common_items(ratings, 0, 1) == [(1, 0)]
