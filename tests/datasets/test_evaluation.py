"""The held-out comparison: what a clip without a score counts as, and whether the interval means what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.gate_settings import GateSettings
from avpref.datasets.evidence.evaluation import BootstrapSettings, DimensionComparison, compare, rewards_of_sides
from avpref.datasets.evidence.gate import decide
from avpref.datasets.reward_formula import MetricScale
from avpref.datasets.rows import EvaluationSide
from avpref.domain import METRICS, Dimension
from avpref.errors import InputError

NAMES = [metric.name for metric in METRICS]
SCALES = [MetricScale(m.name, m.dimension, m.higher_is_better, mean=1.0, std=2.0) for m in METRICS]
BOOTSTRAP = BootstrapSettings(300, 0.95, 0)
KEPT: dict[str, float | None] = {"video": 0.0, "audio": 0.0}


def raw_scores(num_prompts: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    """Raw scores whose rewards are shifted by ``shift`` in every dimension: up where higher is better, down elsewhere."""
    values = np.random.Generator(np.random.PCG64(seed)).normal(size=(num_prompts, len(METRICS)))
    signs = [1 if metric.higher_is_better else -1 for metric in METRICS]
    return pd.DataFrame(values + shift * np.array(signs), index=[f"p{n}" for n in range(num_prompts)], columns=NAMES)


def outcome(reference: pd.DataFrame, policy: pd.DataFrame) -> dict[str, DimensionComparison]:
    return compare(
        rewards_of_sides({EvaluationSide.REFERENCE: reference, EvaluationSide.POLICY: policy}, SCALES), BOOTSTRAP
    )


def test_identical_sides_differ_by_nothing_and_are_refused() -> None:
    scores = raw_scores(20, 1)
    found = outcome(scores, scores.copy())
    for comparison in found.values():
        assert (comparison.delta_sd, comparison.ci_low, comparison.ci_high) == (0.0, 0.0, 0.0)
        assert (comparison.win_rate, comparison.num_pairs) == (0.5, 20)
    verdict = decide(found, KEPT, GateSettings())
    assert not verdict.is_promoted
    assert {rule.rule for rule in verdict.rules if not rule.passed} == {"audio_gain", "sync_gain"}


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), num_prompts=st.integers(2, 30))
def test_a_replay_gives_the_same_numbers_and_swapped_sides_the_opposite_wins(seed: int, num_prompts: int) -> None:
    reference, policy = raw_scores(num_prompts, seed), raw_scores(num_prompts, seed + 1)
    found = outcome(reference, policy)
    assert found == outcome(reference.copy(), policy.copy())
    for dimension, swapped in outcome(policy, reference).items():
        assert swapped.win_rate == pytest.approx(1 - found[dimension].win_rate)
        assert swapped.delta_sd * swapped.reference_sd == pytest.approx(
            -found[dimension].delta_sd * found[dimension].reference_sd
        )


def test_the_order_of_prompts_must_agree_and_prompts_of_one_side_alone_are_named() -> None:
    reference, policy = raw_scores(5, 1), raw_scores(5, 2).iloc[:4]
    with pytest.raises(InputError, match="p4"):
        outcome(reference, policy)


def test_rewards_follow_each_metric_s_direction() -> None:
    reference = raw_scores(10, 3)
    better = outcome(reference, reference + [0.5 if metric.higher_is_better else -0.5 for metric in METRICS])
    assert all(comparison.delta_sd > 0 and comparison.win_rate == 1 for comparison in better.values())


def test_only_differences_count_and_they_are_in_the_reference_s_standard_deviations() -> None:
    reference = raw_scores(50, 4)
    found = outcome(reference, raw_scores(50, 4, shift=0.7))
    sides = rewards_of_sides({EvaluationSide.REFERENCE: reference, EvaluationSide.POLICY: reference}, SCALES)
    for dimension, comparison in found.items():
        sd = float(sides[EvaluationSide.REFERENCE][dimension].std(ddof=1))
        assert comparison.reference_sd == pytest.approx(sd)
        assert comparison.delta_sd == pytest.approx(0.7 / 2.0 / sd)
        assert comparison.ci_low == pytest.approx(comparison.delta_sd) == pytest.approx(comparison.ci_high)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_policy_whose_clips_cannot_be_scored_does_not_win(share: float) -> None:
    """Better where it can be scored, and silent on its weak clips: dropping those would have made it look better still."""
    reference, policy = raw_scores(40, 5), raw_scores(40, 6)
    dropped = policy.copy()
    sound = [metric.name for metric in METRICS if metric.dimension != Dimension.VIDEO]
    weakest = policy["audio_quality"].sort_values().index[: int(share * len(policy))]
    dropped.loc[weakest, sound] = np.nan
    honest, silent = outcome(reference, policy), outcome(reference, dropped)
    for dimension in (Dimension.AUDIO, Dimension.AV):
        assert silent[dimension].num_pairs == 40
        assert silent[dimension].delta_sd < honest[dimension].delta_sd
    assert silent[Dimension.VIDEO] == honest[Dimension.VIDEO]
    assert silent[Dimension.AUDIO].delta_sd < 0 or share < 1


@settings(max_examples=40)
@given(data=st.data())
def test_a_clip_without_a_score_counts_as_bad_as_the_worst_of_both_sides(data: st.DataObject) -> None:
    """And so losing a score gains nothing, but for the clip that was the worst of all: what replaces it is the next."""
    one_each = [metric for metric in SCALES if metric.name in ("motion_quality", "audio_quality", "desync")]
    num_prompts = data.draw(st.integers(3, 8))
    reference, policy = raw_scores(num_prompts, 7), raw_scores(num_prompts, data.draw(st.integers(0, 99)))
    before = rewards_of_sides({EvaluationSide.REFERENCE: reference, EvaluationSide.POLICY: policy}, one_each)
    metric, row = data.draw(st.sampled_from(one_each)), data.draw(st.integers(0, num_prompts - 1))
    policy.loc[f"p{row}", metric.name] = np.nan
    after = rewards_of_sides({EvaluationSide.REFERENCE: reference, EvaluationSide.POLICY: policy}, one_each)
    lost = after[EvaluationSide.POLICY].at[f"p{row}", metric.dimension]
    assert lost == min(after[side][metric.dimension].min() for side in after)
    pd.testing.assert_frame_equal(after[EvaluationSide.REFERENCE], before[EvaluationSide.REFERENCE])
    had = before[EvaluationSide.POLICY].at[f"p{row}", metric.dimension]
    was_worst = had == min(before[side][metric.dimension].min() for side in before)
    assert lost <= had or was_worst


def test_where_neither_side_has_a_score_the_pair_is_left_out() -> None:
    reference, policy = raw_scores(6, 8), raw_scores(6, 9)
    for side in (reference, policy):
        side.loc["p2", "desync"] = np.nan
    found = outcome(reference, policy)
    assert {dimension: comparison.num_pairs for dimension, comparison in found.items()} == {
        Dimension.VIDEO: 6,
        Dimension.AUDIO: 6,
        Dimension.AV: 5,
    }


@pytest.mark.parametrize("lost", list(EvaluationSide))
def test_a_side_without_any_score_of_a_metric(lost: EvaluationSide) -> None:
    """Nothing is decided against a reference that was never scored; a policy that was never scored is the worst."""
    scores = {EvaluationSide.REFERENCE: raw_scores(6, 8), EvaluationSide.POLICY: raw_scores(6, 9)}
    scores[lost]["desync"] = np.nan
    if lost is EvaluationSide.REFERENCE:
        with pytest.raises(InputError, match="0 held-out pairs can be compared in dimension av"):
            outcome(*scores.values())
    else:
        assert outcome(*scores.values())[Dimension.AV].delta_sd < 0


def test_too_few_pairs_and_scores_without_spread_are_input_errors() -> None:
    reference, policy = raw_scores(4, 1), raw_scores(4, 2)
    nothing = reference * np.nan
    with pytest.raises(InputError, match="0 held-out pairs"):
        outcome(nothing, nothing)
    with pytest.raises(InputError, match="1 held-out pairs"):
        outcome(reference.iloc[:1], policy.iloc[:1])
    with pytest.raises(InputError, match="same video reward"):
        outcome(reference * 0, policy)


def test_a_metric_that_never_varied_says_nothing_instead_of_everything() -> None:
    scales = [replace(scale, std=0.0) if scale.name == "audio_quality" else scale for scale in SCALES]
    reference, policy = raw_scores(10, 1), raw_scores(10, 2)
    sides = rewards_of_sides({EvaluationSide.REFERENCE: reference, EvaluationSide.POLICY: policy}, scales)
    assert np.isfinite(sides[EvaluationSide.POLICY].to_numpy()).all()


def coverage(deltas_of: Sequence[np.ndarray], truth: float, confidence: float) -> float:
    """Share of experiments whose interval for the raw delta covers ``truth``."""
    covered = 0
    for number, deltas in enumerate(deltas_of):
        spread = np.linspace(-1.0, 1.0, len(deltas))  # a reference with a known standard deviation
        reference = pd.DataFrame({dimension: spread for dimension in Dimension})
        policy = reference.add(deltas, axis=0)
        found = compare(
            {EvaluationSide.REFERENCE: reference, EvaluationSide.POLICY: policy},
            BootstrapSettings(400, confidence, number),
        )
        comparison = found[Dimension.AUDIO]
        covered += comparison.ci_low <= truth / comparison.reference_sd <= comparison.ci_high
    return covered / len(deltas_of)


@pytest.mark.parametrize(("confidence", "low", "high"), [(0.95, 0.91, 0.98), (0.8, 0.74, 0.86)])
@pytest.mark.parametrize("law", ["normal", "exponential"])
def test_the_interval_covers_the_truth_as_often_as_it_says(
    law: str, confidence: float, low: float, high: float
) -> None:
    """400 simulated evaluations of 64 clips with a known mean difference; four standard errors of slack."""
    generator = np.random.Generator(np.random.PCG64(12))
    draw = generator.normal if law == "normal" else generator.exponential
    truth = 0.3 if law == "normal" else 1.3
    experiments = [draw(size=64) + 0.3 for _ in range(400)]
    assert low <= coverage(experiments, truth, confidence) <= high
