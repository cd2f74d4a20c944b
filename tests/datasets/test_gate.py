"""Every rule of the gate at its bound, and decisions that can be replayed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.config.gate_settings import GateSettings
from avpref.datasets import tables
from avpref.datasets.evidence import gate
from avpref.datasets.evidence.evaluation import DimensionComparison
from avpref.domain import Dimension

GOOD = DimensionComparison(delta_sd=1.0, ci_low=0.5, ci_high=1.5, win_rate=0.8, num_pairs=100, reference_sd=1.0)
BOUNDS = GateSettings()
ALL_GOOD = {str(dimension): GOOD for dimension in Dimension}
KEPT: dict[str, float | None] = {"video": -0.1, "audio": 0.0}


def just_below(value: float) -> float:
    return math.nextafter(value, -math.inf)


def just_above(value: float) -> float:
    return math.nextafter(value, math.inf)


def verdict_with(dimension: Dimension, *, delta_sd: float = GOOD.delta_sd, ci_low: float = GOOD.ci_low) -> gate.Verdict:
    return gate.decide({**ALL_GOOD, dimension: replace(GOOD, delta_sd=delta_sd, ci_low=ci_low)}, KEPT, BOUNDS)


def failed(verdict: gate.Verdict) -> list[tuple[str, str]]:
    return [(rule.rule, rule.dimension) for rule in verdict.rules if not rule.passed]


def test_when_every_rule_holds_the_verdict_is_promote_without_reasons() -> None:
    verdict = gate.decide(ALL_GOOD, KEPT, BOUNDS)
    assert (verdict.verdict, verdict.is_promoted, verdict.reasons) == ("promote", True, [])
    assert [rule.rule for rule in verdict.rules] == ["audio_gain", "sync_gain", "video_kept", *2 * ["displacement"]]


def test_the_audio_gain_may_be_exactly_its_bound() -> None:
    bound = BOUNDS.min_audio_delta_sd
    assert failed(verdict_with(Dimension.AUDIO, delta_sd=bound)) == []
    refused = verdict_with(Dimension.AUDIO, delta_sd=just_below(bound))
    assert failed(refused) == [("audio_gain", "audio")]
    assert refused.verdict == "refuse" and len(refused.reasons) == 1 and "audio" in refused.reasons[0]


def test_the_audio_gain_is_the_mean_and_not_the_interval() -> None:
    assert failed(verdict_with(Dimension.AUDIO, ci_low=-9.0)) == []


@pytest.mark.parametrize(
    ("dimension", "rule", "bound"),
    [
        (Dimension.AV, "sync_gain", BOUNDS.min_av_ci_low_sd),
        (Dimension.VIDEO, "video_kept", BOUNDS.min_video_ci_low_sd),
    ],
)
def test_lower_bounds_of_intervals_must_lie_above_theirs(dimension: Dimension, rule: str, bound: float) -> None:
    assert failed(verdict_with(dimension, ci_low=just_above(bound))) == []
    for value in (bound, just_below(bound)):
        assert failed(verdict_with(dimension, ci_low=value)) == [(rule, dimension)]
    assert failed(verdict_with(dimension, delta_sd=-9.0)) == []


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_displacement_must_stay_below_its_bound(modality: str) -> None:
    bound = BOUNDS.max_displacement
    assert failed(gate.decide(ALL_GOOD, {**KEPT, modality: just_below(bound)}, BOUNDS)) == []
    for value in (bound, just_above(bound)):
        refused = gate.decide(ALL_GOOD, {**KEPT, modality: value}, BOUNDS)
        assert failed(refused) == [("displacement", modality)]
        assert modality in refused.reasons[0]


def test_a_modality_that_was_not_trained_has_no_rule() -> None:
    verdict = gate.decide(ALL_GOOD, {"video": None, "audio": 0.0}, BOUNDS)
    assert [rule.dimension for rule in verdict.rules if rule.rule == "displacement"] == ["audio"]


@pytest.mark.parametrize("nan", [replace(GOOD, delta_sd=math.nan), replace(GOOD, ci_low=math.nan)])
def test_what_is_not_a_number_never_passes(nan: DimensionComparison) -> None:
    verdict = gate.decide({str(dimension): nan for dimension in Dimension}, KEPT, BOUNDS)
    assert not verdict.is_promoted
    assert not gate.decide(ALL_GOOD, {"video": math.nan}, BOUNDS).is_promoted


numbers = st.floats(-3, 3)


@given(audio=numbers, av=numbers, video=numbers, moved=numbers, gain=numbers)
def test_the_verdict_is_yes_exactly_when_every_rule_passed_and_reasons_name_the_others(
    audio: float, av: float, video: float, moved: float, gain: float
) -> None:
    comparisons = {
        "audio": replace(GOOD, delta_sd=audio),
        "av": replace(GOOD, ci_low=av),
        "video": replace(GOOD, ci_low=video),
    }
    bounds = BOUNDS.model_copy(update={"min_audio_delta_sd": gain})
    verdict = gate.decide(comparisons, {"audio": moved}, bounds)
    passed = audio >= gain and av > 0.0 and video > -0.05 and moved < 0.01
    assert verdict.is_promoted == passed == all(rule.passed for rule in verdict.rules)
    assert len(verdict.reasons) == sum(not rule.passed for rule in verdict.rules)
    assert verdict == gate.decide(comparisons, {"audio": moved}, bounds)


def test_rows_are_a_function_of_inputs_and_bounds() -> None:
    verdict = gate.decide(ALL_GOOD, KEPT, BOUNDS)
    rows = gate.rows(verdict, "inputs")
    assert rows == gate.rows(gate.decide(ALL_GOOD, KEPT, BOUNDS), "inputs")
    assert len({row.gate_id for row in rows}) == 1
    assert {row.verdict for row in rows} == {"promote"}
    assert gate.rows(verdict, "others")[0].gate_id != rows[0].gate_id
    harder = gate.decide(ALL_GOOD, KEPT, BOUNDS.model_copy(update={"min_audio_delta_sd": 2.0}))
    assert gate.rows(harder, "inputs")[0].gate_id != rows[0].gate_id
    arrow = tables.to_arrow(tables.GATE_DECISIONS, rows)
    assert arrow["rule"].to_pylist() == [rule.rule for rule in verdict.rules]
