"""The delay of sound against motion on clips whose sound was moved."""

from __future__ import annotations

import numpy as np
import pytest

from avpref.domain import ScoreStatus
from avpref.media.reading import DecodedClip
from avpref.pool.measure.sync_measures import SyncMeasures
from avpref.rewards.protocol import ScorableClip

RATE_HZ, FPS_HZ, SECONDS = 16_000, 25, 4.0


def bursts(delay_s: float) -> DecodedClip:
    """A square that jumps with clicks; the clicks are ``delay_s`` late."""
    random = np.random.default_rng(3)
    number = round(SECONDS * FPS_HZ)
    frames = np.full((number, 96, 96, 3), 40, np.uint8)
    sound = random.normal(0, 0.001, round(SECONDS * RATE_HZ)).astype(np.float32)
    starts, place = [12, 30, 51, 70, 88], 10
    for k in range(number):
        place = (place + 12) % 70 if any(start <= k < start + 3 for start in starts) else place
        frames[k, 30:60, place : place + 24] = 220
    for start in starts:
        first = round((start / FPS_HZ + delay_s) * RATE_HZ)
        length = max(0, min(1600, len(sound) - first))
        sound[first : first + length] += random.normal(0, 0.4, length) * np.exp(-np.arange(length) / 300)
    return DecodedClip(frames, FPS_HZ, sound, RATE_HZ, SECONDS)


@pytest.mark.parametrize("delay_s", [-0.3, 0.0, 0.2, 0.45])
def test_the_lag_is_the_delay_of_the_sound(delay_s: float) -> None:
    (scores,) = SyncMeasures().score([ScorableClip("a", "", bursts(delay_s))])
    values = {score.metric: score.value for score in scores}
    assert values["sync_lag_s"] == pytest.approx(delay_s, abs=0.08)
    assert values["sync_error_s"] == abs(values["sync_lag_s"] or 0.0)
    assert (values["sync_correlation"] or 0.0) > 0.5


def test_still_and_silent_clips_have_a_reason() -> None:
    clip = bursts(0.0)
    assert clip.frames is not None and clip.audio is not None
    still = DecodedClip(clip.frames[:1].repeat(100, 0), FPS_HZ, clip.audio, RATE_HZ, SECONDS)
    silent = DecodedClip(clip.frames, FPS_HZ, np.zeros_like(clip.audio), RATE_HZ, SECONDS)
    for media, reason in ((still, "does not move"), (silent, "silent")):
        (scores,) = SyncMeasures().score([ScorableClip("a", "", media)])
        assert all(score.status == ScoreStatus.SKIPPED and reason in score.reason for score in scores)
