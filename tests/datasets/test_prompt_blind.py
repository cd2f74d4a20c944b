"""Metric sets that look away from the prompt."""

from __future__ import annotations

from itertools import combinations

import pytest

from avpref.datasets.selection.prompt_blind import checked_prompt_blind, prompt_blind
from avpref.domain import METRIC_BY_NAME, METRICS, PICTURE, PROMPT_AND_SOUND, SOUND, Dimension, Metric, MetricInput
from avpref.errors import ConfigError

BLIND = ("visual_quality", "motion_quality", "audio_quality", "audio_video", "desync")


def named(*names: str) -> list[Metric]:
    return [METRIC_BY_NAME[name] for name in names]


def test_the_published_metrics_look_at_the_prompt() -> None:
    assert prompt_blind(METRICS) == ()
    assert prompt_blind(named("text_video", "text_audio", "audio_video")) == ()


def test_no_metric_of_the_published_ones_without_text_looks_at_the_prompt() -> None:
    (finding,) = prompt_blind(named("visual_quality", "audio_quality", "audio_video", "desync"))
    assert finding.startswith("no metric looks at the prompt (visual_quality, audio_quality, audio_video, desync)")


def test_the_published_failure_is_named_twice() -> None:
    """A cosine of sound and picture beside a comparison of the sound with the prompt: the picture collapsed."""
    video, sync = prompt_blind(named("visual_quality", "text_audio", "audio_video"))
    assert video.startswith("video rests on visual_quality alone, which does not look at the prompt")
    assert sync.startswith("av rests on audio_video alone") and "compares the picture with the prompt" in sync


def test_a_second_blind_metric_is_no_safeguard() -> None:
    findings = prompt_blind(named("visual_quality", "motion_quality", "text_audio", "audio_video", "desync"))
    assert [finding.split(" rests on ")[0] for finding in findings] == ["video", "av"]
    assert "visual_quality, motion_quality alone, which do not" in findings[0]


def test_any_set_with_both_texts_is_clean_and_any_without_one_is_not() -> None:
    for size in range(1, len(BLIND) + 1):
        for others in combinations(BLIND, size):
            assert prompt_blind(named("text_video", "text_audio", *others)) == ()
            looks = frozenset[MetricInput]().union(*(METRIC_BY_NAME[name].inputs for name in others))
            assert bool(prompt_blind(named("text_audio", *others))) == (MetricInput.PICTURE in looks)
            assert bool(prompt_blind(named("text_video", *others))) == (MetricInput.SOUND in looks)


def test_metrics_of_others_count_by_their_inputs() -> None:
    clap = Metric("clap", "cosine", True, Dimension.AUDIO, PROMPT_AND_SOUND)
    assert prompt_blind([*named("text_video", "audio_video"), clap]) == ()
    deaf = Metric("loudness", "dB", True, Dimension.AUDIO, SOUND)
    assert len(prompt_blind([*named("text_video", "audio_video"), deaf])) == 2
    assert prompt_blind([Metric("x", "", True, Dimension.VIDEO, PICTURE)])


def test_the_setting_decides() -> None:
    blind = named("visual_quality", "audio_quality", "audio_video")
    assert checked_prompt_blind(blind, "off") == ()
    assert checked_prompt_blind(blind, "warn") == prompt_blind(blind)
    with pytest.raises(ConfigError, match="no metric looks at the prompt"):
        checked_prompt_blind(blind, "refuse")
    assert checked_prompt_blind(METRICS, "refuse") == ()
