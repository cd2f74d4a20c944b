"""Changes that desynchronise sound keep its length and are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from avpref.flows.workers.sound_changes import AMOUNTS, SoundChange, sound_changes

RATE_HZ = 8000


def clicks(*at_s: float, length_s: float = 2.0) -> np.ndarray:
    """Quiet noise with clicks of 10 ms."""
    sound = np.random.default_rng(0).normal(0, 1e-3, round(length_s * RATE_HZ)).astype(np.float32)
    for time_s in at_s:
        sound[round(time_s * RATE_HZ) : round(time_s * RATE_HZ) + RATE_HZ // 100] = 0.8
    return sound


def onsets(sound: np.ndarray) -> list[float]:
    """Times of clicks in seconds, to 0.1 s."""
    loud = np.abs(sound) > 0.3
    starts = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    return sorted({round(start / RATE_HZ, 1) for start in starts})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (SoundChange("swap", 0.5), [0.5, 1.4]),
        (SoundChange("repeat", 0.5), [0.4, 1.4]),
        (SoundChange("repeat", 0.25), [0.4, 0.9]),
    ],
)
def test_clicks_move_as_described(change: SoundChange, expected: list[float]) -> None:
    sound = clicks(0.4, 1.5)
    changed = change(sound, RATE_HZ)
    assert changed.shape == sound.shape and changed.dtype == np.float32
    assert onsets(changed) == expected


@pytest.mark.parametrize("speed", [0.75, 1.3])
def test_a_stretch_moves_later_sound_by_more(speed: float) -> None:
    sound = clicks(0.4, 0.8)
    changed = SoundChange("stretch", speed)(sound, RATE_HZ)
    assert changed.shape == sound.shape
    for onset, original in zip(onsets(changed)[:2], (0.4, 0.8), strict=True):
        assert onset == pytest.approx(original / speed, abs=0.11)


def test_every_kind_but_delay_has_its_versions_in_the_order_of_the_kinds() -> None:
    assert sound_changes(["delay"]) == ()
    changes = sound_changes(["delay", "swap", "stretch"])
    assert [change.kind for change in changes] == ["swap"] * 2 + ["stretch"] * 2
    assert changes[0].amount == AMOUNTS["swap"][0]
