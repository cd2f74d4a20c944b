"""Where the next round's candidates tell most: prompts that gave no pair, and prompts whose rewards contradict each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from avpref.identity import derive_seed

LEAST = 2
"""Candidates of every prompt: a pair needs two."""


def disagreement(rewards: pd.DataFrame) -> dict[str, float]:
    """By prompt, the share of its pairs of candidates that one dimension orders one way and another dimension the other way.

    ``rewards`` has a row per candidate: column ``prompt_id``, and a column per dimension (NaN: no reward). Pairs with an unknown
    reward do not count; a prompt without any pair has 0.
    """
    dimensions = [name for name in rewards.columns if name != "prompt_id"]
    shares: dict[str, float] = {}
    for prompt_id, rows in rewards.groupby("prompt_id", sort=True):
        values = rows[dimensions].to_numpy(float)
        first, second = np.triu_indices(len(values), 1)
        signs = np.sign(values[first] - values[second])
        signs = signs[~np.isnan(signs).any(axis=1)]
        is_mixed = (signs > 0).any(axis=1) & (signs < 0).any(axis=1)
        shares[str(prompt_id)] = float(is_mixed.mean()) if len(signs) else 0.0
    return shares


def most_informative_first(
    prompts: Sequence[str], without_pair: Collection[str], shares: Mapping[str, float], seed: int
) -> list[str]:
    """``prompts`` in the order in which candidates go to them: those without a pair, then by disagreement, ties by hash."""

    def order(prompt_id: str) -> tuple[bool, float, int]:
        return prompt_id not in without_pair, -shares.get(prompt_id, 0.0), derive_seed("informative", seed, prompt_id)

    return sorted(prompts, key=order)


def allocate(ordered: Sequence[str], per_prompt: int) -> dict[str, int]:
    """Candidates by prompt: ``per_prompt`` on average, :data:`LEAST` for all, up to twice the rest for the first of ``ordered``.

    Invariant: the total is ``per_prompt`` times the number of prompts.
    """
    least = min(LEAST, per_prompt)
    remaining = (per_prompt - least) * len(ordered)
    counts: dict[str, int] = {}
    for prompt_id in ordered:
        extra = min(2 * (per_prompt - least), remaining)
        counts[prompt_id] = least + extra
        remaining -= extra
    return counts
