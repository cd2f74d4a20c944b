"""The split by hash: independent of order, stable under growth, right on average."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from avpref.datasets.prompts.held_out import held_out

ENTRIES = st.lists(st.text(max_size=6), min_size=0, max_size=40, unique=True)
SHARES = st.floats(0.0, 1.0)


@given(few=ENTRIES, more=ENTRIES, share=SHARES, seed=st.integers(0, 99))
def test_an_entry_stays_on_its_side_when_the_list_grows(
    few: list[str], more: list[str], share: float, seed: int
) -> None:
    before, after = held_out(few, share, seed), held_out({*few, *more}, share, seed)
    if len(before) != 1:  # one entry may be there only because somebody must be
        assert set(before) == set(after) & set(few) or not before


@given(entries=ENTRIES, share=SHARES, seed=st.integers(0, 99))
def test_the_order_in_which_entries_are_given_does_not_matter(entries: list[str], share: float, seed: int) -> None:
    assert held_out(entries, share, seed) == held_out(entries[::-1], share, seed)


@given(entries=ENTRIES, seed=st.integers(0, 99))
def test_nobody_or_everybody_where_that_is_asked_for(entries: list[str], seed: int) -> None:
    assert held_out(entries, 0.0, seed) == []
    assert set(held_out(entries, 1.0, seed)) == set(entries)


def test_the_share_is_right_on_average_and_follows_the_seed() -> None:
    entries = [f"text {n}" for n in range(4000)]
    for share in (0.1, 0.25, 0.5):
        spread = math.sqrt(len(entries) * share * (1 - share))
        assert abs(len(held_out(entries, share, 0)) - share * len(entries)) < 4 * spread
    assert held_out(entries, 0.1, 0) != held_out(entries, 0.1, 1)


def test_somebody_is_held_out_where_the_share_rounds_to_one() -> None:
    for seed in range(40):
        assert held_out(["a", "b", "c"], 0.3, seed)
