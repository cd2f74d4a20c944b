"""Judges: comparison of single metrics, the rules on them, suspected reward hacking, and decisions with and without judges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from avpref.config.gate_settings import (
    EvaluationSettings,
    GateSettings,
    JudgeRule,
    SequentialProcedure,
    SuperiorityRule,
)
from avpref.datasets.evidence import judging
from avpref.datasets.evidence.decision import Decision, DecisionInputs, inputs_of, scores_of, take
from avpref.datasets.evidence.evaluation import DimensionComparison, rewards_of_sides
from avpref.datasets.evidence.gate import PROMOTE, REFUSE, RuleOutcome
from avpref.datasets.evidence.judging import JudgeMetric, MetricComparison, Role, paired_scores
from avpref.datasets.reward_formula import MetricScale
from avpref.datasets.rows import EvaluationSide
from avpref.domain import METRICS, Dimension

NUM = 48
PROMPTS = tuple(f"p{number:02d}" for number in range(NUM))
SIDES = (EvaluationSide.REFERENCE, EvaluationSide.POLICY)
SHARP = JudgeMetric("signal/visual_quality", "video", True, "f1")
LATE = JudgeMetric("other/lateness", "av", False, "f2")
EASY = GateSettings(rules=(SuperiorityRule(dimension="video"),))
Scores = dict[EvaluationSide, pd.DataFrame]


def scores(gain: float, judged: Mapping[str, float], num: int = NUM, seed: int = 3) -> Scores:
    """Scores of both sides: the policy is better by ``gain`` in all seven metrics, and its values of judges differ by ``judged``."""
    generator = np.random.default_rng(seed)
    signs = {metric.name: 1.0 if metric.higher_is_better else -1.0 for metric in METRICS}
    added = {name: gain * sign for name, sign in signs.items()} | dict(judged)
    base = {name: generator.normal(size=num) for name in added}
    return {
        side: pd.DataFrame(
            {
                name: base[name] + 0.2 * generator.normal(size=num) + added[name] * (side is EvaluationSide.POLICY)
                for name in added
            },
            index=list(PROMPTS[:num]),
        )
        for side in SIDES
    }


def inputs(*metrics: JudgeMetric, gate: GateSettings = EASY, **changes: object) -> DecisionInputs:
    scorers = sorted({metric.name.split("/")[0] for metric in metrics} & {"signal", "toy"})
    values = {"bootstrap_samples": 400, "gate": gate, "judges": tuple(scorers or (["toy"] if metrics else []))}
    made = DecisionInputs(
        run_id="tiny-s0-x",
        product_version="1",
        settings=EvaluationSettings.model_validate(values),
        bootstrap_seed=0,
        norm_id="n0",
        metrics=tuple(MetricScale(m.name, m.dimension, m.higher_is_better, 0.0, 1.0) for m in METRICS),
        prompts=PROMPTS,
        num_held_out=NUM,
        displacement={"video": None, "audio": 0.001},
        meaningless=(),
        policy_hash="p",
        adapter_hash="a",
        reference_hash="r",
        evaluations="v",
        judges=metrics,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def rules_of(decision: Decision, name: str) -> list[RuleOutcome]:
    return [rule for rule in decision.verdict.rules if rule.rule == name]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_missing_scores_count_as_in_the_reward_formula(seed: int, higher_is_better: bool) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(2, 12))
    values[generator.random(values.shape) < 0.3] = np.nan
    values[:, 0] = np.nan
    values[0, 1] = 1.0
    video = MetricScale("visual_quality", Dimension.VIDEO, higher_is_better, 0.0, 1.0)
    others = [
        MetricScale("audio_quality", Dimension.AUDIO, True, 0.0, 1.0),
        MetricScale("desync", Dimension.AV, False, 0.0, 1.0),
    ]
    prompts = [f"p{number}" for number in range(12)]
    frames = {
        side: pd.DataFrame({"visual_quality": column, "audio_quality": 1.0, "desync": 0.0}, index=prompts)
        for side, column in zip(SIDES, values, strict=True)
    }
    rewards = rewards_of_sides(frames, [video, *others])
    expected = (rewards[EvaluationSide.POLICY].video - rewards[EvaluationSide.REFERENCE].video).dropna().to_numpy(float)
    pairs = paired_scores(values[0], values[1], higher_is_better)
    np.testing.assert_allclose(pairs.deltas * pairs.reference_sd, expected, atol=1e-12)
    reference = rewards[EvaluationSide.REFERENCE].video.dropna().to_numpy(float)
    assert pairs.reference_sd == pytest.approx(np.std(reference, ddof=1))


def test_units_where_the_reference_does_not_vary_and_where_there_is_nothing_to_compare() -> None:
    constant = np.full(8, 2.0)
    same = paired_scores(constant, constant, True)
    assert same.deltas.tolist() == [0.0] * 8 and same.reference_sd == 0.0
    other = np.arange(8.0)
    spread = paired_scores(constant, other, False)
    assert spread.reference_sd == pytest.approx(np.std([*constant, *other], ddof=1))
    np.testing.assert_allclose(spread.deltas, (constant - other) / spread.reference_sd)
    nothing = np.full(8, np.nan)
    assert len(paired_scores(nothing, other, True).deltas) == 0
    assert len(paired_scores(np.where(np.arange(8) == 3, 1.0, np.nan), nothing, True).deltas) == 1
    silent = paired_scores(other, nothing, True)
    assert silent.deltas.max() == 0.0 and silent.deltas.mean() < -1.0


def test_a_judge_that_falls_refuses_and_the_rise_of_the_selectors_is_named() -> None:
    decision = take(inputs(SHARP, LATE), scores(1.0, {SHARP.name: -1.0, LATE.name: 0.0}))
    assert decision.verdict.verdict == REFUSE and decision.is_final
    outcomes = {rule.dimension: rule for rule in rules_of(decision, judging.JUDGE)}
    assert not outcomes[SHARP.name].passed and outcomes[LATE.name].passed
    assert outcomes[SHARP.name].bound == -0.05 and outcomes[SHARP.name].value < -0.05
    (suspicion,) = rules_of(decision, judging.HACKING)
    assert suspicion.detail.startswith("suspected reward hacking: what selected the pairs rose (video +")
    assert SHARP.name in suspicion.detail and LATE.name not in suspicion.detail
    assert suspicion.detail in decision.verdict.reasons
    roles = {metric.name: metric.role for metric in decision.metrics}
    assert [name for name, role in roles.items() if role is Role.JUDGE] == [SHARP.name, LATE.name]
    assert {name for name, role in roles.items() if role is Role.SELECTOR} == {metric.name for metric in METRICS}


def test_a_lower_number_is_a_gain_where_lower_is_better() -> None:
    better = take(inputs(LATE), scores(1.0, {LATE.name: -1.0}))
    worse = take(inputs(LATE), scores(1.0, {LATE.name: 1.0}))
    assert better.verdict.verdict == PROMOTE and worse.verdict.verdict == REFUSE
    (change,) = [metric.comparison for metric in better.metrics if metric.name == LATE.name]
    assert change is not None and change.delta_sd > 0.8 and change.win_rate == 1.0
    desync = next(metric for metric in better.metrics if metric.name == "desync")
    assert desync.comparison is not None and desync.comparison.delta_sd > 0.8


def test_a_fall_without_a_rise_is_no_suspicion() -> None:
    decision = take(inputs(SHARP), scores(-1.0, {SHARP.name: -1.0}))
    assert decision.verdict.verdict == REFUSE and not rules_of(decision, judging.HACKING)


def test_the_margin_is_that_of_the_bound_of_the_rule_or_of_the_metrics_own_rule() -> None:
    fall = scores(1.0, {SHARP.name: -0.5, LATE.name: 0.5})

    def refused(gate: GateSettings) -> set[str]:
        verdict = take(inputs(SHARP, LATE, gate=gate), fall)
        return {rule.dimension for rule in rules_of(verdict, judging.JUDGE) if not rule.passed}

    wide = 3.0
    assert refused(EASY) == {SHARP.name, LATE.name}
    assert refused(GateSettings(judge_margin_sd=wide)) == set()
    assert refused(GateSettings(rules=(*EASY.rules, JudgeRule(margin_sd=wide)))) == set()
    own = JudgeRule(metric=SHARP.name, margin_sd=wide)
    assert refused(GateSettings(rules=(*EASY.rules, own))) == {LATE.name}
    assert refused(GateSettings(rules=(JudgeRule(margin_sd=wide), JudgeRule(metric=LATE.name)))) == {LATE.name}
    with pytest.raises(ValueError, match="five bounds"):
        GateSettings(judge_margin_sd=wide, rules=EASY.rules)


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_judge_that_compared_too_few_prompts_shows_nothing_and_refuses(kept: int) -> None:
    judged = scores(1.0, {SHARP.name: -1.0})
    for frame in judged.values():
        frame.loc[list(PROMPTS[kept:]), SHARP.name] = np.nan
    decision = take(inputs(SHARP), judged)
    (few,) = rules_of(decision, judging.JUDGE_PAIRS)
    assert few.value == kept and not few.passed and "evaluation.judge_metrics" in few.detail
    assert not rules_of(decision, judging.HACKING)
    assert (decision.metrics[-1].comparison is None) == (kept < 2)


def test_policy_clips_that_a_judge_cannot_score_count_as_the_worst() -> None:
    judged = scores(1.0, {SHARP.name: 0.0})
    judged[EvaluationSide.POLICY][SHARP.name] = np.nan
    assert take(inputs(SHARP), judged).verdict.verdict == REFUSE


def test_equal_models_are_seldom_refused_by_a_judge() -> None:
    """An end of a 95 % interval misses with probability 2.5 %; the margin makes it rarer."""
    refusals = 0
    for seed in range(300):
        decision = take(inputs(SHARP), scores(3.0, {SHARP.name: 0.0}, seed=seed))
        refusals += not rules_of(decision, judging.JUDGE)[0].passed
    assert refusals <= 12


def test_a_sequential_evaluation_ends_at_the_look_at_which_a_judge_falls() -> None:
    settings = EvaluationSettings(procedure=SequentialProcedure(look_prompts=16), gate=EASY, judges=("signal",))
    looks = [
        take(
            inputs(SHARP, settings=settings, prompts=PROMPTS[:seen]),
            {side: frame.iloc[:seen] for side, frame in scores(0.0, {SHARP.name: -1.5}).items()},
        )
        for seen in (16, 32)
    ]
    assert not looks[0].is_final or looks[0].verdict.verdict == REFUSE
    assert looks[1].is_final and looks[1].verdict.verdict == REFUSE


def test_inputs_with_judges_survive_json() -> None:
    original = inputs(SHARP, LATE)
    judged = scores(1.0, {SHARP.name: -1.0, LATE.name: 0.0})
    decision = take(original, judged)
    document = json.loads(json.dumps(decision.document()))
    again = inputs_of(document)
    assert again == original and again.hash == original.hash
    assert take(again, judged).document() == decision.document()
    read = [judging.metric_comparison(metric) for metric in document["metrics"]]
    assert tuple(read) == decision.metrics


def test_a_decision_without_judges_has_the_inputs_of_a_decision_before_judges() -> None:
    document = inputs().document()
    assert "judges" not in document
    assert not {"judges", "judge_metrics"} & set(document["settings"])
    assert "judge_margin_sd" not in document["settings"]["gate"]
    assert inputs_of({"inputs": json.loads(json.dumps(document))}).hash == inputs().hash


def test_a_comparison_without_numbers_survives_json() -> None:
    empty = MetricComparison("a/b", Role.JUDGE, "video", 1, None)
    assert judging.metric_comparison(json.loads(json.dumps(empty.document()))) == empty
    full = replace(empty, num_pairs=3, comparison=DimensionComparison(1.0, 0.5, 1.5, 0.9, 3, 2.0, 0.025))
    assert judging.metric_comparison(full.document()) == full


def test_scores_of_judges_are_read_back_under_their_names() -> None:
    rows = pd.DataFrame(
        {
            "kind": ["score", "judge", "judge", "reward"],
            "status": ["ok", "ok", "skipped", "ok"],
            "side": ["policy", "policy", "reference", "policy"],
            "prompt_id": ["p00"] * 4,
            "name": ["visual_quality", SHARP.name, SHARP.name, "video"],
            "value": [1.0, 2.0, np.nan, 3.0],
        }
    )
    read = scores_of(rows, PROMPTS[:1], ["visual_quality", SHARP.name])
    assert read[EvaluationSide.POLICY].loc["p00"].tolist() == [1.0, 2.0]
    assert np.isnan(read[EvaluationSide.REFERENCE].loc["p00"]).all()
