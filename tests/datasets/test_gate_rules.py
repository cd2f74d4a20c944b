"""Rules that a configuration lists: each kind at its bound, what stays the default, and what cannot be configured away."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from avpref.config.gate_settings import (
    DimensionName,
    DisplacementRule,
    GateRule,
    GateSettings,
    MinimumEffectRule,
    NonInferiorityRule,
    SuperiorityRule,
    ValidityRule,
)
from avpref.config.loading import identity_hash, load_config
from avpref.datasets.evidence import gate
from avpref.datasets.evidence.evaluation import DimensionComparison, Unscorable
from avpref.domain import Dimension
from avpref.errors import ConfigError

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
GOOD = DimensionComparison(delta_sd=1.0, ci_low=0.5, ci_high=1.5, win_rate=0.8, num_pairs=100, reference_sd=1.0)
ALL_GOOD = {str(dimension): GOOD for dimension in Dimension}
KEPT: dict[str, float | None] = {"video": -0.1, "audio": 0.0}
STANDARD = GateSettings(
    rules=(
        MinimumEffectRule(dimension="audio", effect_sd=0.5),
        SuperiorityRule(dimension="av"),
        NonInferiorityRule(dimension="video", margin_sd=0.05),
        DisplacementRule(),
    )
)


def verdict(rules: tuple[GateRule, ...], **changes: DimensionComparison) -> gate.Verdict:
    found = {**ALL_GOOD, **{name: one for name, one in changes.items()}}
    return gate.decide(found, KEPT, GateSettings(rules=rules))


@pytest.mark.parametrize("name", ["video", "audio", "av"])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_superiority_and_non_inferiority_look_at_the_lower_bound(name: DimensionName, margin: float) -> None:
    for rule, bound in (
        (SuperiorityRule(dimension=name, margin_sd=margin), margin),
        (NonInferiorityRule(dimension=name, margin_sd=margin + 0.1), -(margin + 0.1)),
    ):
        at = replace(GOOD, ci_low=bound)
        above = replace(GOOD, ci_low=math.nextafter(bound, math.inf), delta_sd=-9.0)
        assert not verdict((rule,), **{name: at}).is_promoted
        assert verdict((rule,), **{name: above}).is_promoted


@pytest.mark.parametrize("name", ["video", "audio", "av"])
def test_a_minimum_effect_looks_at_the_mean(name: DimensionName) -> None:
    rule = MinimumEffectRule(dimension=name, effect_sd=0.2)
    assert verdict((rule,), **{name: replace(GOOD, delta_sd=0.2, ci_low=-9.0)}).is_promoted
    refused = verdict((rule,), **{name: replace(GOOD, delta_sd=0.19)})
    assert not refused.is_promoted and refused.reasons[0].startswith(name)


def test_listed_rules_that_say_what_the_bounds_say_give_the_same_verdicts() -> None:
    for audio in (0.4, 0.5):
        for av in (0.0, 0.01):
            for video in (-0.05, -0.04):
                for moved in (0.009, 0.01):
                    found = {
                        "audio": replace(GOOD, delta_sd=audio),
                        "av": replace(GOOD, ci_low=av),
                        "video": replace(GOOD, ci_low=video),
                    }
                    short, long = (gate.decide(found, {"audio": moved}, s) for s in (GateSettings(), STANDARD))
                    assert short.verdict == long.verdict
                    assert [r.passed for r in short.rules] == [r.passed for r in long.rules]


def test_the_share_of_clips_that_cannot_be_judged_may_not_rise() -> None:
    settings = GateSettings(rules=(ValidityRule(max_rise=0.05),))
    same = {str(dimension): Unscorable(reference=0.1, policy=0.1) for dimension in Dimension}
    worse = {**same, Dimension.AUDIO: Unscorable(reference=0.1, policy=0.2)}
    better = {**same, Dimension.AUDIO: Unscorable(reference=0.1, policy=0.0)}
    verdicts = [gate.decide(ALL_GOOD, KEPT, settings, (), shares) for shares in (same, worse, better)]
    assert [found.is_promoted for found in verdicts] == [True, False, True]
    assert [rule.dimension for rule in verdicts[1].rules if not rule.passed] == ["audio"]
    assert not gate.decide(ALL_GOOD, KEPT, settings).is_promoted  # nothing is known of it


def test_displacement_is_asked_only_where_it_is_listed_and_random_weights_always() -> None:
    moved: dict[str, float | None] = {"video": 9.0}
    rules = GateSettings(rules=(SuperiorityRule(dimension="av"),))
    assert gate.decide(ALL_GOOD, moved, rules).is_promoted
    assert not gate.decide(ALL_GOOD, moved, STANDARD).is_promoted
    assert not gate.decide(ALL_GOOD, KEPT, rules, ["tiny"]).is_promoted


def test_further_looks_are_a_waste_only_where_an_upper_bound_fails() -> None:
    assert not gate.is_hopeless(ALL_GOOD, GateSettings())
    undecided = {str(d): replace(GOOD, ci_low=-1.0, delta_sd=0.1) for d in Dimension}
    assert not gate.is_hopeless(undecided, STANDARD)
    for dimension, ci_high in ((Dimension.AUDIO, 0.49), (Dimension.AV, 0.0), (Dimension.VIDEO, -0.05)):
        assert gate.is_hopeless({**undecided, dimension: replace(GOOD, ci_high=ci_high)}, STANDARD)
        assert gate.is_hopeless({**undecided, dimension: replace(GOOD, ci_high=ci_high)}, GateSettings())


def test_rules_come_from_the_configuration_and_change_the_run() -> None:
    listed = "evaluation.gate.rules=[{kind: superiority, dimension: av}, {kind: validity, max_rise: 0.1}]"
    settings = load_config(TINY, [listed], {}).settings
    assert settings.evaluation.gate.rules == (SuperiorityRule(dimension="av"), ValidityRule(max_rise=0.1))
    assert identity_hash(settings) != identity_hash(load_config(TINY, [], {}).settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("evaluation.gate.rules=[{kind: superiorty, dimension: av}]", "superiority"),
        ("evaluation.gate.rules=[{kind: superiority, dimension: sync}]", "'video', 'audio' or 'av'"),
        ("evaluation.gate.rules=[{kind: superiority}]", "dimension is missing"),
        ("evaluation.gate.rules=[{kind: superiority, dimension: av, margin: 1}]", "margin"),
        ("evaluation.gate={min_audio_delta_sd: 0.1, rules: [{kind: displacement}]}", "remove one of them"),
        ("evaluation.procedure={kind: sequential, look_prompts: 1}", "look_prompts"),
        ("promotion.alias=Serving", "promotion.alias"),
    ],
)
def test_wrong_rules_are_explained(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TINY, [given], {})
    assert said in str(caught.value)


def test_promotion_is_not_part_of_a_run_s_identity() -> None:
    base = load_config(TINY, [], {}).settings
    other = load_config(TINY, ["promotion.automatic=true", "promotion.approval=required"], {}).settings
    assert identity_hash(other) == identity_hash(base)
