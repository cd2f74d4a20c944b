"""Each check of the contract fails for a scorer that breaks that rule, and all pass for one that keeps them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from avpref.domain import OWN_TERMS, SOUND, Dimension, Metric, Score
from avpref.rewards.fake import FakeScorer
from avpref.rewards.outside.sample_clips import broken_clips, sample_clips
from avpref.rewards.outside.scorer_contract import Contract
from avpref.rewards.protocol import ScorableClip, measured, skipped

METRIC = Metric("level", "1", True, Dimension.AUDIO, SOUND)


class Level:
    """The mean level of the sound."""

    metrics = (METRIC,)
    terms = OWN_TERMS
    fingerprint = "1"

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        return [[self.one(clip, index, len(clips))] for index, clip in enumerate(clips)]

    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        if clip.clip.audio is None:
            return skipped(clip.candidate_id, METRIC, "no audio track")
        return measured(clip.candidate_id, METRIC, float(np.abs(clip.clip.audio).mean()))


class ByBatch(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        return measured(clip.candidate_id, METRIC, total)


class ByOrder(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        return measured(clip.candidate_id, METRIC, index if total > 1 else len(clip.text) % 3)


class ByName(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        return measured(clip.candidate_id, METRIC, len(clip.candidate_id))


class Changes(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        score = super().one(clip, index, total)
        if clip.clip.frames is not None:
            clip.clip.frames[0, 0, 0, 0] += 1
        return score


class Seeds(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        return super().one(clip, index, total)


class Draws(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        state = random.getstate()
        value = random.random()
        random.setstate(state)
        return measured(clip.candidate_id, METRIC, value)


class NeedsSound(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        assert clip.clip.audio is not None, "no sound"
        return super().one(clip, index, total)


class Infinite(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        return Score(clip.candidate_id, "level", float("inf"), super().one(clip, 0, 1).status)


class AlwaysSkips(Level):
    def one(self, clip: ScorableClip, index: int, total: int) -> Score:
        return skipped(clip.candidate_id, METRIC, "no dog")


def failures(scorer: Any) -> list[str]:
    contract = Contract(scorer, sample_clips(), broken_clips())
    return [finding.check for finding in contract.findings() if not finding.is_passed]


@pytest.mark.parametrize("scorer", [Level(), FakeScorer()], ids=lambda scorer: type(scorer).__name__)
def test_a_scorer_that_keeps_the_contract_passes(scorer: Any) -> None:
    equal = ["equal clips, equal scores"] if isinstance(scorer, FakeScorer) else []  # its numbers come from the ids
    assert failures(scorer) == equal


@pytest.mark.parametrize(
    ("scorer", "check"),
    [
        (ByBatch(), "independent of the batch"),
        (ByOrder(), "independent of the order"),
        (ByName(), "equal clips, equal scores"),
        (Changes(), "clips left unchanged"),
        (Seeds(), "global random state left alone"),
        (Draws(), "no use of the global random state"),
        (NeedsSound(), "broken clips"),
        (Infinite(), "valid scores"),
        (AlwaysSkips(), "valid scores"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Level) else "",
)
def test_a_scorer_that_breaks_a_rule_fails_its_check(scorer: Any, check: str) -> None:
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        assert check in failures(scorer)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def test_the_sample_clips_are_the_same_every_time_and_differ_from_each_other() -> None:
    first, second = sample_clips(), sample_clips()
    for one, other in zip(first, second, strict=True):
        assert one.clip.frames is not None and one.clip.audio is not None
        np.testing.assert_array_equal(one.clip.frames, other.clip.frames)
        np.testing.assert_array_equal(one.clip.audio, other.clip.audio)
    assert len({clip.clip.frames.tobytes() for clip in first if clip.clip.frames is not None}) == len(first)
