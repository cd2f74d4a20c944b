"""The shortcut audit on pairs that were made to have a shortcut, and on pairs that were made to have none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from present import present
from scipy.stats import mannwhitneyu, spearmanr

from avpref.datasets.evidence.shortcuts import (
    COMBINED,
    FACTS,
    PROMPT_LENGTH,
    AuditRow,
    Bounds,
    Selected,
    audit,
    flagged,
    wilson,
)
from avpref.identity import derive_seed

BOUNDS = Bounds(max_auroc=0.8, confidence=0.95)
CLIP_FACTS = [fact for fact in FACTS if fact != "ground_truth"]


def generator(*parts: object) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed("shortcuts", *parts)))


def selected(seed: int, num_prompts: int = 120, per_prompt: int = 1, num_skipped: int = 60) -> Selected:
    """Pairs of which nothing tells which is chosen: all facts, lengths and margins are drawn independently."""
    rng, pairs, candidates, facts = generator(seed), [], [], []
    prompts = [f"p{ordinal}" for ordinal in range(num_prompts + num_skipped)]
    for prompt in prompts[:num_prompts]:
        for rank in range(per_prompt):
            sides = [f"{prompt}-{rank}-{side}" for side in ("chosen", "rejected")]
            pairs.append({"prompt_id": prompt, "chosen": sides[0], "rejected": sides[1], "margin_total": rng.random()})
            for side in sides:
                candidates.append({"candidate_id": side, "origin": rng.choice(["generated", "ground_truth"])})
                facts.append({"candidate_id": side, **{fact: rng.normal() for fact in CLIP_FACTS}})
    texts = [{"prompt_id": prompt, "text": "x" * int(rng.integers(10, 200))} for prompt in prompts]
    skipped = pd.DataFrame({"prompt_id": prompts[num_prompts:]})
    return Selected(pd.DataFrame(pairs), skipped, pd.DataFrame(texts), pd.DataFrame(candidates), pd.DataFrame(facts))


def by_fact(found: Selected, bounds: Bounds = BOUNDS, kind: str = "pairs") -> dict[str, AuditRow]:
    return {row.fact: row for row in audit(found, bounds, "modality", "n") if row.kind == kind}


def is_side(found: Selected, side: str) -> pd.Series:
    return found.facts["candidate_id"].str.endswith(side)


@pytest.mark.parametrize("seed", range(5))
def test_balanced_pairs_are_not_flagged(seed: int) -> None:
    rows = audit(selected(seed), BOUNDS, "modality", "n")
    assert flagged(rows) == []
    assert {row.fact for row in rows} == {*FACTS, COMBINED, PROMPT_LENGTH}
    told = [row for row in rows if row.kind == "pairs"]
    assert all(present(row.ci_low) < present(row.value) for row in told)
    assert sum(present(row.ci_low) <= 0.5 <= present(row.ci_high) for row in told) >= len(told) - 2


@pytest.mark.parametrize("fact", CLIP_FACTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_fact_that_decides_alone_is_flagged_whichever_way_it_points(fact: str, sign: int) -> None:
    found = selected(11)
    found.facts.loc[is_side(found, "chosen"), fact] += 6 * sign
    rows = by_fact(found)
    assert [name for name, row in rows.items() if row.is_flagged] == [fact, COMBINED]
    value = rows[fact].value
    assert value is not None and (value > 0.95) == (sign > 0)
    assert (rows[COMBINED].value or 0) > 0.95


def test_ground_truth_that_is_always_chosen_is_flagged() -> None:
    found = selected(3)
    chosen = found.candidates["candidate_id"].str.endswith("chosen")
    found.candidates["origin"] = np.where(chosen, "ground_truth", "generated")
    rows = by_fact(found)
    assert rows["ground_truth"].value == 1.0 and rows["ground_truth"].is_flagged


def test_facts_that_tell_only_together_are_seen_together() -> None:
    """Chosen is louder than it is bright: each fact varies from prompt to prompt far more than within the pair's margin."""
    found = selected(5, num_prompts=400)
    shared = generator("shared").normal(size=len(found.facts))
    found.facts["loudness_db"], found.facts["brightness"] = shared, shared
    found.facts.loc[is_side(found, "chosen"), "loudness_db"] += 0.4
    rows = by_fact(found)
    assert rows[COMBINED].is_flagged and (rows[COMBINED].value or 0) > 0.95
    assert not rows["loudness_db"].is_flagged and not rows["brightness"].is_flagged


def test_the_combination_is_judged_on_prompts_that_it_did_not_learn_from() -> None:
    """Few prompts and many facts without meaning: learning by heart would tell them all."""
    values = [by_fact(selected(seed, num_prompts=14, num_skipped=4))[COMBINED].value for seed in range(20)]
    assert 0.3 < float(np.mean([value for value in values if value is not None])) < 0.7


@pytest.mark.parametrize("num_prompts", [1, 2, 3])
def test_a_few_pairs_prove_nothing(num_prompts: int) -> None:
    found = selected(1, num_prompts=num_prompts)
    found.facts.loc[is_side(found, "chosen"), "loudness_db"] = 100.0
    row = by_fact(found)["loudness_db"]
    assert row.value == 1.0 and not row.is_flagged
    assert by_fact(found)[COMBINED].value is None


def test_pairs_of_one_prompt_count_once_for_the_interval() -> None:
    once, often = by_fact(selected(2, num_prompts=40)), by_fact(selected(2, num_prompts=40, per_prompt=10))
    assert often["motion"].num == 10 * once["motion"].num
    low, high = wilson(often["motion"].value or 0, 40, 0.95)
    assert (often["motion"].ci_low, often["motion"].ci_high) == (low, high)


def test_equal_and_missing_values_are_ties_and_absences() -> None:
    found = selected(4)
    found.facts["duration_s"] = 2.0
    found.facts["loudness_db"] = np.nan
    found.facts.loc[found.facts["candidate_id"].isin(["p0-0-chosen", "p0-0-rejected"]), "loudness_db"] = [1.0, 2.0]
    rows = by_fact(found)
    assert rows["duration_s"].value == 0.5 and "120 of 120 pairs are equal" in rows["duration_s"].detail
    assert (rows["loudness_db"].num, rows["loudness_db"].value) == (1, 0.0)
    found.facts["loudness_db"] = np.nan
    assert by_fact(found)["loudness_db"].value is None


@pytest.mark.parametrize("bound", [0.6, 0.9])
def test_the_bound_decides(bound: float) -> None:
    found = selected(9, num_prompts=300)
    found.facts.loc[is_side(found, "chosen"), "motion"] += 1.0  # about 0.76
    row = by_fact(found, Bounds(bound, 0.95))["motion"]
    assert 0.6 < (row.value or 0) < 0.9
    assert row.is_flagged == (bound == 0.6)


def test_lengths_of_prompts_agree_with_scipy() -> None:
    found = selected(6)
    length = found.prompts.set_index("prompt_id")["text"].str.len()
    kept, skipped = length.reindex(found.pairs["prompt_id"]), length.reindex(found.skipped["prompt_id"])
    expected = mannwhitneyu(kept, skipped).statistic / (len(kept) * len(skipped))
    row = by_fact(found, kind="prompts")[PROMPT_LENGTH]
    assert row.value == pytest.approx(expected)
    margin = by_fact(found, kind="margin")[PROMPT_LENGTH]
    assert margin.value == pytest.approx(spearmanr(kept, found.pairs["margin_total"]).statistic)
    assert margin.bound is None and not margin.is_flagged


def test_only_long_prompts_getting_pairs_is_flagged() -> None:
    found = selected(7)
    kept = found.prompts["prompt_id"].isin(found.pairs["prompt_id"])
    found.prompts["text"] = np.where(kept, "a long text, longer than the others", "short")
    assert by_fact(found, kind="prompts")[PROMPT_LENGTH].is_flagged


@pytest.mark.parametrize(("share", "num"), [(0.0, 5), (1.0, 5), (0.3, 40)])
def test_wilson_s_interval_is_that_of_scipy(share: float, num: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(round(share * num), num).proportion_ci(0.95, method="wilson")
    assert wilson(share, num, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)
