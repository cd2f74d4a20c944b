"""Flags and what they keep from being judged."""

from __future__ import annotations

import numpy as np
import pytest

from avpref.domain import METRICS, Dimension, ScoreStatus
from avpref.media.reading import DecodedClip
from avpref.rewards.protocol import ScorableClip, measured
from avpref.rewards.validity import DEFAULT_RULES, Flag, ValidityRules, flags, reason, score_valid

FRAMES = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 3)).astype(np.uint8)
SOUND = (0.1 * np.random.default_rng(1).standard_normal(32000)).astype(np.float32)


def clip(frames: np.ndarray | None = FRAMES, audio: np.ndarray | None = SOUND, duration_s: float = 2.0) -> DecodedClip:
    return DecodedClip(frames, 8.0 if frames is not None else 0.0, audio, 16000 if audio is not None else 0, duration_s)


def test_a_good_clip_has_no_flags() -> None:
    assert flags(clip(), DEFAULT_RULES) == ()
    assert all(reason(clip(), dimension, DEFAULT_RULES) == "" for dimension in Dimension)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (clip(frames=None), (Flag.NO_VIDEO,)),
        (clip(audio=None), (Flag.NO_AUDIO,)),
        (clip(audio=SOUND * np.float32(1e-4)), (Flag.SILENT,)),
        (clip(audio=np.full(32000, np.nan, np.float32)), (Flag.SILENT,)),
        (clip(audio=SOUND[:0]), (Flag.SILENT,)),
        (clip(frames=FRAMES // 100), (Flag.BLANK,)),
        (clip(frames=FRAMES[:1]), (Flag.TOO_SHORT,)),
        (clip(duration_s=0.2), (Flag.TOO_SHORT,)),
        (clip(frames=None, audio=None), (Flag.NO_VIDEO, Flag.NO_AUDIO)),
    ],
)
def test_flags(given: DecodedClip, expected: tuple[Flag, ...]) -> None:
    assert flags(given, DEFAULT_RULES) == expected


def test_a_still_picture_is_judged() -> None:
    assert flags(clip(frames=np.repeat(FRAMES[:1], 16, axis=0)), DEFAULT_RULES) == ()


def test_limits_are_the_rules() -> None:
    assert flags(clip(), ValidityRules(min_rms=0.2)) == (Flag.SILENT,)
    assert flags(clip(), ValidityRules(min_duration_s=3.0)) == (Flag.TOO_SHORT,)


def test_only_what_applies_is_measured() -> None:
    asked: list[str] = []

    def measure(_: ScorableClip, metrics) -> dict[str, float]:
        asked.extend(metric.name for metric in metrics)
        return {metric.name: float("nan") if metric.name == "text_video" else 1.0 for metric in metrics}

    scores = score_valid(ScorableClip("c", "", clip(audio=None)), METRICS, DEFAULT_RULES, measure)
    assert asked == [metric.name for metric in METRICS if metric.dimension == Dimension.VIDEO]
    by_metric = {score.metric: score for score in scores}
    assert by_metric["audio_quality"].reason == by_metric["desync"].reason == "no audio track"
    assert by_metric["visual_quality"].value == 1.0
    assert by_metric["text_video"].status == ScoreStatus.SKIPPED and "nan" in by_metric["text_video"].reason


def test_numbers_that_are_not_finite_are_not_ok() -> None:
    score = measured("c", METRICS[0], float("inf"))
    assert score.candidate_id == "c"
    assert score.status == ScoreStatus.SKIPPED and score.value is None and score.reason
