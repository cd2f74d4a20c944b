"""A decision is a function of its inputs, survives JSON, and a replay from rows gives what was decided from frames."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from avpref.config.gate_settings import BootstrapProcedure, EvaluationSettings, SequentialProcedure
from avpref.datasets.evidence.decision import DecisionInputs, inputs_of, take
from avpref.datasets.reward_formula import MetricScale
from avpref.datasets.rows import EvaluationSide
from avpref.domain import METRICS
from avpref.errors import InputError, TableError

PROMPTS = tuple(f"p{number}" for number in range(60))


def scores(gain: float, num_prompts: int = 60, noise: float = 0.3, seed: int = 3) -> dict[EvaluationSide, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    base = generator.normal(size=(60, len(METRICS)))
    signs = np.array([1 if metric.higher_is_better else -1 for metric in METRICS])
    names = [metric.name for metric in METRICS]
    return {
        side: pd.DataFrame(
            base + noise * generator.normal(size=base.shape) + gain * signs * (side is EvaluationSide.POLICY),
            index=list(PROMPTS),
            columns=names,
        ).iloc[:num_prompts]
        for side in EvaluationSide
    }


def inputs(num_prompts: int = 60, settings: EvaluationSettings | None = None) -> DecisionInputs:
    return DecisionInputs(
        run_id="tiny-s0-x",
        product_version="1",
        settings=settings or EvaluationSettings(bootstrap_samples=200),
        bootstrap_seed=0,
        norm_id="n0",
        metrics=tuple(MetricScale(m.name, m.dimension, m.higher_is_better, 0.0, 1.0) for m in METRICS),
        prompts=PROMPTS[:num_prompts],
        num_held_out=60,
        displacement={"video": None, "audio": 0.001},
        meaningless=(),
        policy_hash="p",
        adapter_hash="a",
        reference_hash="r",
        evaluations="v",
    )


SEQUENTIAL = EvaluationSettings(procedure=SequentialProcedure(look_prompts=20))


@pytest.mark.parametrize("settings", [EvaluationSettings(bootstrap_samples=200), SEQUENTIAL])
def test_inputs_survive_json_and_give_the_same_decision(settings: EvaluationSettings) -> None:
    decision = take(inputs(settings=settings), scores(1.0))
    document = json.loads(json.dumps(decision.document()))
    again = inputs_of(document)
    assert again == inputs(settings=settings) and again.hash == decision.inputs.hash
    taken = take(again, scores(1.0))
    assert taken.decision_id == decision.decision_id == document["decision_id"]
    assert taken.comparisons == decision.comparisons and taken.verdict == decision.verdict


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(inputs(), bootstrap_seed=1), id="bootstrap_seed"),
        pytest.param(replace(inputs(), norm_id="n1"), id="norm_id"),
        pytest.param(replace(inputs(), evaluations="w"), id="evaluations"),
        pytest.param(replace(inputs(), policy_hash="q"), id="policy_hash"),
        pytest.param(replace(inputs(), reference_hash="s"), id="reference_hash"),
        pytest.param(replace(inputs(), product_version="2"), id="product_version"),
        pytest.param(replace(inputs(), displacement={"video": 0.0, "audio": 0.001}), id="displacement"),
        pytest.param(replace(inputs(), meaningless=("tiny",)), id="meaningless"),
        pytest.param(inputs(settings=EvaluationSettings(bootstrap_samples=201)), id="settings"),
    ],
)
def test_every_input_is_in_the_decision_s_identity(changed: DecisionInputs) -> None:
    assert take(changed, scores(1.0)).decision_id != take(inputs(), scores(1.0)).decision_id


def test_a_fixed_size_decision_is_final_and_a_look_only_where_it_decides() -> None:
    assert take(inputs(), scores(0.0)).is_final
    first = {gain: take(inputs(20, settings=SEQUENTIAL), scores(gain, 20)) for gain in (3.0, -3.0)}
    assert [first[gain].is_final for gain in (3.0, -3.0)] == [True, True]
    assert first[3.0].verdict.is_promoted and not first[-3.0].verdict.is_promoted
    unclear = take(inputs(20, settings=SEQUENTIAL), scores(0.4, 20, noise=1.0))
    assert not unclear.is_final and not unclear.verdict.is_promoted
    assert take(inputs(60, settings=SEQUENTIAL), scores(0.0)).is_final
    levels = {one.level for one in first[3.0].comparisons.values()}
    assert len(levels) == 1 and levels.pop() < 0.025


def test_a_displacement_that_is_no_number_decides_nothing() -> None:
    with pytest.raises(InputError, match="displacement of audio"):
        take(replace(inputs(), displacement={"audio": float("nan")}), scores(1.0))


def test_a_document_that_is_not_one_is_refused() -> None:
    document = take(inputs(), scores(1.0)).document()
    documents: list[dict[str, object]] = [{}, {"inputs": {}}, {"inputs": {**document["inputs"], "norm_id2": 1}}]
    for broken in documents:
        with pytest.raises(TableError):
            inputs_of(broken)


def test_clips_without_scores_count_alike_when_the_decision_is_taken_again() -> None:
    """Even where the policy's clip is missing altogether: it counts as the worst, not as nothing."""
    found = scores(1.0)
    found[EvaluationSide.POLICY].iloc[3] = np.nan
    decision = take(inputs(), found)
    assert all(one.num_pairs == 60 for one in decision.comparisons.values())
    assert decision.inputs.settings.procedure == BootstrapProcedure()
