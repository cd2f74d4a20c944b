"""The contract of the ``Scorer`` protocol, checked for every scorer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from avpref.domain import METRIC_BY_NAME, Dimension, Score, ScoreStatus
from avpref.media.reading import DecodedClip
from avpref.media.toyscene import all_attributes, describe
from avpref.rewards.audiobox.audiobox import tiny_audiobox
from avpref.rewards.clap.clap import ClapScorer, tiny_clap
from avpref.rewards.fake import FakeScorer
from avpref.rewards.imagebind.imagebind import tiny_imagebind
from avpref.rewards.imagebind.javis_score import JavisScorer, tiny_javis_score
from avpref.rewards.model_scorer import ModelScorer
from avpref.rewards.protocol import ScorableClip, Scorer
from avpref.rewards.signals.signals import signal_scorers
from avpref.rewards.synchformer.synchformer import tiny_synchformer
from avpref.rewards.toy.toy import toy_scorers
from avpref.rewards.videoalign.videoalign import tiny_videoalign

NETWORKS = (tiny_audiobox, tiny_clap, tiny_imagebind, tiny_javis_score, tiny_synchformer, tiny_videoalign)
SCORERS: Sequence[Scorer] = [FakeScorer(), *toy_scorers(), *signal_scorers(), *(tiny() for tiny in NETWORKS)]
ROUNDING = 5e-6
"""How far a network's number may move with its batch: matrices of other sizes add up in another order."""
TEXT = describe(all_attributes()[0])

scorers = pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: type(scorer).__name__)


def moving_clip(seed: int) -> DecodedClip:
    """A square that jumps and a click at each jump, over noise."""
    random = np.random.default_rng(seed)
    frames = random.integers(20, 40, (16, 64, 64, 3)).astype(np.uint8)
    audio = (0.01 * random.standard_normal(32000)).astype(np.float32)
    for k in range(16):
        x, y = 4 + 3 * k, 10 + (seed + 7 * (k // 4)) % 40
        frames[k, y : y + 12, x : x + 12] = (220, 60, 40)
    for k in range(1, 4):
        audio[8000 * k : 8000 * k + 400] += 0.3
    return DecodedClip(frames, 8.0, audio, 16000, 2.0)


def scorable(name: str, clip: DecodedClip, text: str = TEXT) -> ScorableClip:
    return ScorableClip(name, text, clip)


@pytest.fixture(scope="module")
def clips() -> list[ScorableClip]:
    return [scorable(f"c{seed}", moving_clip(seed)) for seed in range(5)]


@scorers
def test_metrics_are_those_of_the_domain(scorer: Scorer) -> None:
    assert scorer.metrics and len(set(scorer.metrics)) == len(scorer.metrics)
    columns = [metric for metric in scorer.metrics if metric.name in METRIC_BY_NAME]
    assert (columns or isinstance(scorer, JavisScorer | ClapScorer)) and all(
        replace(METRIC_BY_NAME[metric.name], unit=metric.unit) == metric for metric in columns
    )
    assert scorer.terms.licence and scorer.fingerprint


@scorers
def test_one_score_per_clip_and_metric_in_order(scorer: Scorer, clips: list[ScorableClip]) -> None:
    rows = scorer.score(clips)
    assert [{score.candidate_id for score in row} for row in rows] == [{clip.candidate_id} for clip in clips]
    assert all([score.metric for score in row] == [metric.name for metric in scorer.metrics] for row in rows)
    assert scorer.score([]) == []


@scorers
def test_ok_means_a_finite_number_and_anything_else_a_reason(scorer: Scorer, clips: list[ScorableClip]) -> None:
    for row in scorer.score(clips):
        assert any(score.status == ScoreStatus.OK for score in row)
        for score in row:
            if score.status == ScoreStatus.OK:
                assert score.value is not None and math.isfinite(score.value) and not score.reason
            else:
                assert score.value is None and score.reason


@scorers
def test_scores_do_not_depend_on_the_batch(scorer: Scorer, clips: list[ScorableClip]) -> None:
    together = scorer.score(clips)
    assert_alike(scorer, scorer.score(list(reversed(clips))), list(reversed(together)))
    assert_alike(scorer, [scorer.score([clip])[0] for clip in clips], together)


def assert_alike(scorer: Scorer, found: list[list[Score]], expected: list[list[Score]]) -> None:
    """Equal; numbers of networks to rounding."""
    if not isinstance(scorer, ModelScorer):
        assert found == expected
        return
    for one, other in zip(chain(*found), chain(*expected), strict=True):
        assert replace(one, value=None) == replace(other, value=None)
        assert one.value == other.value or one.value == pytest.approx(other.value, abs=ROUNDING)


@scorers
def test_clips_are_left_as_they_were(scorer: Scorer) -> None:
    clip = moving_clip(3)
    assert clip.frames is not None and clip.audio is not None
    frames, audio = clip.frames.copy(), clip.audio.copy()
    clip.frames.setflags(write=False)
    clip.audio.setflags(write=False)
    scorer.score([scorable("c", clip)])
    np.testing.assert_array_equal(clip.frames, frames)
    np.testing.assert_array_equal(clip.audio, audio)


def broken(kind: str) -> DecodedClip:
    clip = moving_clip(0)
    assert clip.frames is not None and clip.audio is not None
    match kind:
        case "no audio track":
            return DecodedClip(clip.frames, 8.0, None, 0, 2.0)
        case "silent":
            return DecodedClip(clip.frames, 8.0, np.zeros(32000, np.float32), 16000, 2.0)
        case "no video track":
            return DecodedClip(None, 0.0, clip.audio, 16000, 2.0)
        case "blank picture":
            return DecodedClip(np.zeros_like(clip.frames), 8.0, clip.audio, 16000, 2.0)
        case _:
            return DecodedClip(clip.frames[:2], 8.0, clip.audio[:4000], 16000, 0.25)


SPARED = {
    "no audio track": Dimension.VIDEO,
    "silent": Dimension.VIDEO,
    "no video track": Dimension.AUDIO,
    "blank picture": Dimension.AUDIO,
    "too short": None,
}


@scorers
@pytest.mark.parametrize("kind", list(SPARED))
def test_invalid_clips_are_skipped_with_the_reason(scorer: Scorer, kind: str) -> None:
    for metric, score in zip(scorer.metrics, scorer.score([scorable("c", broken(kind))])[0], strict=True):
        if metric.dimension != SPARED[kind]:
            assert score.status == ScoreStatus.SKIPPED and score.value is None, (metric, score)
            assert kind in score.reason
        else:
            assert score.status == ScoreStatus.OK or kind not in score.reason
