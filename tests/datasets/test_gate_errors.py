"""How often the gate is wrong, by simulation: through the real comparison and the real rules, with default settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from avpref.config.gate_settings import EvaluationSettings
from avpref.datasets.evidence import gate
from avpref.datasets.evidence import sequential as looks
from avpref.datasets.evidence.evaluation import BootstrapSettings, DimensionComparison, compare
from avpref.datasets.rows import EvaluationSide
from avpref.domain import Dimension

KEPT: dict[str, float | None] = {"video": 0.0, "audio": 0.0}
SETTINGS = EvaluationSettings()
NUM_RUNS = 1000
MAX_FALSE = 0.05

Sides = dict[EvaluationSide, pd.DataFrame]
Compared = dict[str, DimensionComparison]
Procedure = Callable[[Sides, int], Iterator[Compared]]


def rounded(generator: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return np.round(generator.normal(size=size))


LAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda generator, size: generator.normal(size=size),
    "heavy": lambda generator, size: generator.standard_t(2.5, size=size),
    "skewed": lambda generator, size: generator.lognormal(size=size),
    "tied": rounded,
}
SIZES = (6, 8, 16, 32, 96)


def experiment(law: str, num_prompts: int, is_correlated: bool, seed: int, shift: float = 0.0) -> Sides:
    """Two equal models up to fresh noise, the policy ``shift`` reference standard deviations better (prompts give half of them)."""
    generator = np.random.default_rng([seed, num_prompts, is_correlated])
    draw = LAWS[law]
    prompt = generator.normal(size=(num_prompts, 1))
    sides = {}
    for side in EvaluationSide:
        noise = draw(generator, (num_prompts, 1 if is_correlated else len(Dimension)))
        rewards = np.broadcast_to(prompt + noise, (num_prompts, len(Dimension)))
        sides[side] = pd.DataFrame(rewards + shift * 2**0.5 * (side is EvaluationSide.POLICY), columns=list(Dimension))
    return sides


def all_at_once(sides: Sides, seed: int) -> Iterator[Compared]:
    yield compare(sides, BootstrapSettings(SETTINGS.bootstrap_samples, SETTINGS.confidence, seed))


def in_looks(sides: Sides, seed: int) -> Iterator[Compared]:
    num_prompts = len(sides[EvaluationSide.POLICY])
    for look in looks.plan(num_prompts, max(2, num_prompts // 4), SETTINGS.confidence):
        yield looks.compare_at({side: frame.iloc[: look.num_prompts] for side, frame in sides.items()}, look)


PROCEDURES: dict[str, Procedure] = {"bootstrap": all_at_once, "sequential": in_looks}


def promotes(found: Compared) -> bool:
    return gate.decide(found, KEPT, SETTINGS.gate).is_promoted


def good_but_for_sync(found: Compared) -> Compared:
    """As if audio and video had really improved by two standard deviations: sync alone stands between the policy and a yes."""
    better = {
        dimension: replace(one, delta_sd=one.delta_sd + 2, ci_low=one.ci_low + 2, ci_high=one.ci_high + 2)
        for dimension, one in found.items()
    }
    return {**better, Dimension.AV: found[Dimension.AV]}


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_equal_models_are_promoted_in_at_most_five_percent_of_a_thousand_runs(procedure: str) -> None:
    """The second count is the hardest case: everything else is better, so only one rule can refuse."""
    cells = [(law, size, joined) for law in LAWS for size in SIZES for joined in (False, True)]
    false, hardest = 0, dict.fromkeys(LAWS, 0)
    for number in range(NUM_RUNS):
        law, size, joined = cells[number % len(cells)]
        seen = list(PROCEDURES[procedure](experiment(law, size, joined, number), number))
        false += any(promotes(found) for found in seen)
        hardest[law] += any(promotes(good_but_for_sync(found)) for found in seen)
    assert false <= MAX_FALSE * NUM_RUNS
    assert 0 < sum(hardest.values()) <= MAX_FALSE * NUM_RUNS, hardest


@pytest.mark.parametrize(("procedure", "num_runs"), [("bootstrap", 60), ("sequential", 120)])
def test_the_documented_size_and_effect_are_found_in_nine_of_ten_runs(procedure: str, num_runs: int) -> None:
    """256 prompts and 0.7 standard deviations, as docs/gate.md says; half the variance is the prompts'."""
    found = [
        any(promotes(seen) for seen in PROCEDURES[procedure](experiment("normal", 256, False, number, 0.7), number))
        for number in range(num_runs)
    ]
    assert np.mean(found) >= 0.9


def test_a_sequential_decision_needs_fewer_prompts_where_the_effect_is_large() -> None:
    used = []
    for number in range(40):
        sides = experiment("normal", 256, False, number, 1.2)
        for look, found in zip(looks.plan(256, 64, 0.95), in_looks(sides, number), strict=False):
            if promotes(found):
                used.append(look.num_prompts)
                break
    assert len(used) == 40 and np.mean(used) < 256


@pytest.mark.parametrize(("num_prompts", "look"), [(256, 64), (100, 30), (7, 64), (64, 64), (65, 64), (10, 2)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_looks_spend_the_error_of_one_end_and_no_more(num_prompts: int, look: int, confidence: float) -> None:
    found = looks.plan(num_prompts, look, confidence)
    assert sum(each.level for each in found) == pytest.approx((1 - confidence) / 2)
    assert all(each.level > 0 for each in found)
    sizes = [each.num_prompts for each in found]
    assert sizes == sorted(set(sizes)) and sizes[-1] == num_prompts
    assert all(size % look == 0 for size in sizes[:-1])


def test_spending_is_late() -> None:
    """O'Brien and Fleming's form: almost nothing at a quarter, a small part at half, all at the end."""
    assert looks.spent(0.025, 1.0) == pytest.approx(0.025)
    assert looks.spent(0.025, 0.5) == pytest.approx(0.00153, abs=1e-5)  # the published value for one-sided 0.025
    assert looks.spent(0.025, 0.25) < 1e-5


@pytest.mark.parametrize("num_pairs", [2, 4, 5])
def test_too_few_pairs_refuse_whatever_they_show(num_pairs: int) -> None:
    generator = np.random.default_rng(1)
    reference = pd.DataFrame(generator.normal(size=(num_pairs, 3)), columns=list(Dimension))
    found = compare(
        {EvaluationSide.REFERENCE: reference, EvaluationSide.POLICY: reference + 9}, BootstrapSettings(200, 0.95, 0)
    )
    verdict = gate.decide(found, KEPT, SETTINGS.gate)
    assert not verdict.is_promoted
    assert {rule.rule for rule in verdict.rules if not rule.passed} == {"enough_pairs"}
    assert gate.min_pairs(0.025) == 6
