"""Candidates go where they tell most, and their total stays."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.datasets.rounds.informative import allocate, disagreement, most_informative_first


def rewards(**by_prompt: list[tuple[float, float]]) -> pd.DataFrame:
    rows = [(name, video, audio) for name, values in by_prompt.items() for video, audio in values]
    return pd.DataFrame(rows, columns=["prompt_id", "video", "audio"])


def test_disagreement_is_the_share_of_pairs_that_dimensions_order_differently() -> None:
    missing = float("nan")
    shares = disagreement(
        rewards(
            agreed=[(1, 1), (2, 2), (3, 3)],
            opposite=[(1, 3), (2, 2), (3, 1)],
            half=[(1, 1), (2, 2), (3, 1.5)],
            tied=[(1, 1), (1, 2)],
            unknown=[(1, missing), (2, 1)],
        )
    )
    assert shares == pytest.approx({"agreed": 0, "opposite": 1, "half": 1 / 3, "tied": 0, "unknown": 0})


def test_prompts_without_a_pair_come_first_then_disagreement() -> None:
    ordered = most_informative_first(["a", "b", "c", "d"], {"d"}, {"a": 0.1, "b": 0.9, "c": 0.1}, seed=0)
    assert ordered[:2] == ["d", "b"] and set(ordered[2:]) == {"a", "c"}
    orders = {tuple(most_informative_first(["a", "c"], (), {}, seed)) for seed in range(20)}
    assert len(orders) == 2, "ties are broken by the seed"


@given(st.integers(1, 60), st.integers(1, 9))
def test_the_total_stays_and_every_prompt_can_give_a_pair(num_prompts: int, per_prompt: int) -> None:
    counts = allocate([str(number) for number in range(num_prompts)], per_prompt)
    numbers = list(counts.values())
    assert sum(numbers) == num_prompts * per_prompt and min(numbers) >= min(2, per_prompt)
    assert numbers == sorted(numbers, reverse=True) and max(numbers) <= max(per_prompt, 2 * per_prompt - 2)
