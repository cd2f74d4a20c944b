"""Stretches of activity: hysteresis, gaps, short stretches, shares."""

from __future__ import annotations

import numpy as np
import pytest

from avpref.rewards.learned.activity import ActivityRules, active, active_share, runs
from avpref.rewards.learned.sound_classes import shares


def marks(text: str) -> list[bool]:
    return [mark == "x" for mark in text]


@pytest.mark.parametrize(
    ("rules", "probabilities", "expected"),
    [
        (ActivityRules(0.1), [0.4, 0.5, 0.9, 0.4], ".xx."),
        (ActivityRules(0.1, 0.5, 0.3), [0.4, 0.5, 0.4, 0.3, 0.2, 0.4], ".xxx.."),
        (ActivityRules(0.1, min_gap_s=0.25), [0, 1, 0, 0, 1, 0, 0, 0, 1], ".xxxx...x"),
        (ActivityRules(0.1, min_gap_s=0.25), [0, 0, 1, 0, 0], "..x.."),
        (ActivityRules(0.1, min_length_s=0.15), [1, 0, 1, 1, 0, 1], "..xx.."),
        (ActivityRules(0.1, min_gap_s=0.15, min_length_s=0.25), [1, 0, 1, 0, 0, 1], "xxx..."),
        (ActivityRules(0.1), [], ""),
    ],
)
def test_stretches(rules: ActivityRules, probabilities: list[float], expected: str) -> None:
    assert active(probabilities, rules).tolist() == marks(expected)
    assert active_share(probabilities, rules) == pytest.approx(expected.count("x") / max(1, len(expected)))


def test_runs_are_first_and_one_past_the_last_index() -> None:
    assert runs(np.array(marks("xx..x"))) == [(0, 2), (4, 5)]
    assert runs(np.array([], bool)) == []


def test_shares_of_sound_classes_read_their_own_column() -> None:
    probabilities = np.zeros((100, 3), np.float32)
    probabilities[:, 0] = 0.9
    probabilities[:25, 1] = 0.9
    probabilities[:50, 2] = 0.9
    probabilities[90:95, 2] = 0.9  # 50 ms: too short
    assert shares(probabilities) == {"music_share": 0.5, "singing_share": 0.25}
