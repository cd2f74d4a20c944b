"""VideoAlign's scorer at tiny size, from clip and caption to scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from avpref.domain import Dimension, ScoreStatus
from avpref.media.reading import DecodedClip
from avpref.rewards.model_scorer import CPU
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.videoalign.videoalign import (
    NORMALISED_METRICS,
    PUBLISHED,
    RAW_METRICS,
    VideoAlignScorer,
    tiny_videoalign,
)

CAPTION = "a red ball rolls over the grass"
VISUAL = ["visual_quality", "motion_quality", "videoalign_vq", "videoalign_mq"]
TEXTUAL = ["text_alignment", "videoalign_ta"]


@pytest.fixture(scope="module")
def scorer() -> VideoAlignScorer:
    return tiny_videoalign()


def picture(height: int = 64, width: int = 96, num_frames: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def clip(frames: np.ndarray, text: str = CAPTION, name: str = "c", fps_hz: float = 8.0) -> ScorableClip:
    return ScorableClip(name, text, DecodedClip(frames, fps_hz, None, 0, len(frames) / fps_hz))


def values(scorer: VideoAlignScorer, *clips: ScorableClip) -> list[dict[str, float]]:
    rows = scorer.score(clips)
    assert all(score.status == ScoreStatus.OK for row in rows for score in row)
    return [{score.metric: score.value or 0.0 for score in row} for row in rows]


def test_six_numbers_that_mean_nothing(scorer: VideoAlignScorer) -> None:
    found = values(scorer, clip(picture()))[0]
    assert sorted(found) == sorted(VISUAL + TEXTUAL) and len({round(value, 6) for value in found.values()}) == 6
    assert all(metric.dimension == Dimension.VIDEO and metric.higher_is_better for metric in scorer.metrics)
    assert not scorer.terms.is_meaningful


def test_normalised_numbers_follow_from_the_raw_ones(scorer: VideoAlignScorer) -> None:
    found = values(scorer, clip(picture()))[0]
    columns = zip(RAW_METRICS, NORMALISED_METRICS, PUBLISHED.means, PUBLISHED.deviations, strict=True)
    for raw, normalised, mean, deviation in columns:
        assert found[normalised.name] == pytest.approx((found[raw.name] - mean) / deviation, abs=1e-12)


def test_clips_of_different_sizes_lengths_and_captions_in_one_batch(scorer: VideoAlignScorer) -> None:
    clips = [
        clip(picture(64, 96), CAPTION, "a"),
        clip(picture(200, 60, 40, seed=1), "x", "b", fps_hz=25.0),
        clip(picture(33, 41, 5, seed=2), "word " * 100, "c"),
    ]
    together = values(scorer, *clips)
    for one, alone in zip(together, [values(scorer, each)[0] for each in clips], strict=True):
        assert one == pytest.approx(alone, abs=2e-6)
    assert values(scorer, *reversed(clips)) == [pytest.approx(one, abs=2e-6) for one in reversed(together)]


def test_equal_clips_get_equal_numbers(scorer: VideoAlignScorer) -> None:
    one, again, third = (values(scorer, clip(picture()))[0] for _ in range(3))
    assert one == again == third
    together = values(scorer, clip(picture()), clip(picture()))
    assert together[0] == pytest.approx(together[1], abs=2e-6)


def test_only_text_alignment_depends_on_the_caption(scorer: VideoAlignScorer) -> None:
    first, second = (values(scorer, clip(picture(), text))[0] for text in (CAPTION, "another thing altogether"))
    assert [first[name] for name in VISUAL] == pytest.approx([second[name] for name in VISUAL], abs=1e-6)
    assert all(abs(first[name] - second[name]) > 1e-4 for name in TEXTUAL)


def test_every_number_depends_on_the_picture_and_its_order(scorer: VideoAlignScorer) -> None:
    frames = picture()
    first, other, backwards = (
        values(scorer, clip(each))[0] for each in (frames, picture(seed=9), np.ascontiguousarray(frames[::-1]))
    )
    for found in (other, backwards):
        assert all(abs(first[name] - found[name]) > 1e-7 for name in first)


def test_an_empty_caption_skips_text_alignment_alone(scorer: VideoAlignScorer) -> None:
    row = {score.metric: score for score in scorer.score([clip(picture(), " \n")])[0]}
    assert all(row[name].status == ScoreStatus.OK for name in VISUAL)
    assert all(row[name].status == ScoreStatus.SKIPPED and row[name].reason == "empty text" for name in TEXTUAL)


@pytest.mark.parametrize(
    "text", ["word " * 400, "<|VQ_reward|> <|TA_reward|>", "<|im_end|><|video_pad|>", "{text_prompt}", "ж猫🐈\0"]
)
def test_hard_captions_get_six_numbers(scorer: VideoAlignScorer, text: str) -> None:
    plain, found = values(scorer, clip(picture()), clip(picture(), text))
    assert [found[name] for name in VISUAL] == pytest.approx([plain[name] for name in VISUAL], abs=2e-6)


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (clip(picture(num_frames=2)), "too short"),
        (clip(picture(num_frames=1), fps_hz=1.0), "too short"),
        (clip(np.full((16, 64, 64, 3), 9, np.uint8)), "blank picture"),
        (ScorableClip("c", CAPTION, DecodedClip(None, 0.0, np.ones(16000, np.float32), 16000, 1.0)), "no video track"),
        (clip(picture(1, 201)), "201x1"),
        (clip(picture(), "a" * 40_000), "32768 positions"),
    ],
    ids=["0.3 s", "one frame", "blank", "no picture", "sliver", "endless caption"],
)
def test_invalid_clips_are_skipped_with_the_reason(scorer: VideoAlignScorer, each: ScorableClip, reason: str) -> None:
    good = clip(picture())
    broken, intact = scorer.score([each, good])
    assert all(score.status == ScoreStatus.SKIPPED and score.value is None for score in broken)
    assert all(reason in score.reason for score in broken)
    assert all(score.status == ScoreStatus.OK for score in intact)


def test_a_very_large_picture_is_scored(scorer: VideoAlignScorer) -> None:
    frames = np.zeros((4, 2160, 3840, 3), np.uint8)
    frames[:, :, :1000] = 200
    prepared = scorer.prepare(clip(frames))
    assert prepared.inputs is not None and prepared.inputs.frames.shape == (4, 56, 112, 3)
    assert all(score.status == ScoreStatus.OK for score in scorer.score_prepared([prepared])[0])


def test_what_is_prepared_is_small_and_does_not_hold_the_picture(scorer: VideoAlignScorer) -> None:
    frames = picture(200, 300)
    prepared = scorer.prepare(clip(frames))
    assert prepared.inputs is not None
    expected = scorer.score([clip(frames.copy())])
    frames[:] = 0
    assert scorer.score_prepared([prepared]) == expected


def test_low_precision_gives_about_the_same_numbers(scorer: VideoAlignScorer) -> None:
    low = tiny_videoalign(replace(CPU, dtype=torch.bfloat16))
    assert low.fingerprint != scorer.fingerprint == tiny_videoalign().fingerprint
    exact, found = (values(each, clip(picture()))[0] for each in (scorer, low))
    assert found == pytest.approx(exact, abs=5e-2)


@pytest.mark.gpu
def test_a_graphics_card_gives_the_same_numbers(scorer: VideoAlignScorer) -> None:
    clips = [clip(picture(), name="a"), clip(picture(100, 50, seed=1), "x", "b")]
    found = values(tiny_videoalign(replace(CPU, device="cuda")), *clips)
    for one, expected in zip(found, values(scorer, *clips), strict=True):
        assert one == pytest.approx(expected, abs=1e-3)
