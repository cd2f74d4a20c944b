"""The choice of metrics from the configuration: names, weights, order, and mistakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from avpref.config.loading import load_config
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets.metric_selection import check_metrics, select_metrics
from avpref.domain import METRICS, SOUND, Metric, dimensions_of, modalities_of
from avpref.errors import ConfigError
from avpref.flows.workers.run_metrics import checked_metrics
from avpref.flows.workers.scorers import metrics_of

VOICE = Metric("voice", "points", True, "speech", SOUND, scorer="Listener")
COMPUTED = [VOICE, *(replace(metric, scorer="Toy") for metric in reversed(METRICS))]


def names(metrics):
    return [metric.name for metric in metrics]


def test_the_metrics_of_the_paper_are_the_default_and_come_in_their_order():
    assert names(select_metrics(COMPUTED, (), {})) == names(METRICS)
    assert names(select_metrics(COMPUTED[:4], (), {})) == ["text_audio", "audio_video", "desync"]


def test_any_computed_metric_can_be_listed_in_any_order():
    listed = ("voice", "desync", "visual_quality", "audio_quality")
    selected = select_metrics(COMPUTED, listed, {"voice": 2.5, "desync": 0.0})
    assert names(selected) == ["visual_quality", "audio_quality", "desync", "voice"]
    assert selected == select_metrics(COMPUTED, listed[::-1], {"desync": 0.0, "voice": 2.5})
    assert [metric.weight for metric in selected] == [1.0, 1.0, 0.0, 2.5]
    assert [metric.scorer for metric in selected] == ["Toy", "Toy", "Toy", "Listener"]
    assert dimensions_of(selected) == ("video", "audio", "av", "speech")


@pytest.mark.parametrize(
    ("computed", "listed", "weights", "said"),
    [
        (COMPUTED, ("voyce",), {}, "scoring.metrics lists voyce"),
        (COMPUTED, (), {"voice": 2.0}, "scoring.weights lists voice"),
        ([*COMPUTED, replace(METRICS[0], scorer="Other")], (), {}, "visual_quality.*Toy and Other"),
    ],
)
def test_mistakes_name_the_metric(computed, listed, weights, said):
    with pytest.raises(ConfigError, match=said) as caught:
        select_metrics(computed, listed, weights)
    assert caught.value.fix


def test_every_dimension_needs_weight_and_columns_of_their_own():
    check_metrics([*METRICS, VOICE])
    silent = [replace(metric, weight=0.0) if metric.dimension == "audio" else metric for metric in METRICS]
    clash = [*METRICS, replace(VOICE, name="desync_normalised")]
    for metrics, said in ((silent, "'audio' has weight 0"), (clash, "twice"), (METRICS[3:], "'video'")):
        with pytest.raises(ConfigError, match=said):
            check_metrics(metrics)


def test_metrics_of_reward_models_enter_rewards_without_their_weights_being_loaded():
    scoring = ScoringSettings(
        scorers=("audiobox", "imagebind", "synchformer", "videoalign", "javis_score"),
        metrics=("audiobox_pq", "javis_score", "text_video", "desync"),
        weights={"javis_score": 3.0},
    )
    assert names(metrics_of(scoring)) == ["text_video", "desync", "audiobox_pq", "javis_score"]
    assert [metric.weight for metric in metrics_of(scoring)] == [1.0, 1.0, 1.0, 3.0]


def test_align_of_the_signal_scorers_can_enter_rewards():
    scoring = ScoringSettings(scorers=("signal",), metrics=("visual_quality", "audio_quality", "av_align"))
    assert names(metrics_of(scoring)) == ["visual_quality", "audio_quality", "av_align"]


def test_a_gate_rule_needs_a_metric_of_its_dimension(request):
    config = request.config.rootpath / "configs" / "tiny.yaml"
    rule = "evaluation.gate.rules=[{kind: superiority, dimension: speech}]"
    with pytest.raises(ConfigError, match="'speech'"):
        checked_metrics(load_config(config, [rule], environment={}).settings)


def test_a_dimension_moves_the_modalities_that_it_is_about():
    assert modalities_of("video", {}) == {"video"}
    assert modalities_of("audio", {}) == {"audio"}
    assert modalities_of("av", {}) == modalities_of("speech", {}) == {"video", "audio"}
    assert modalities_of("speech", {"speech": "audio"}) == {"audio"}
    with pytest.raises(ValueError, match="video always moves video"):
        ScoringSettings(modalities={"video": "both"})
