"""Facts of clips whose loudness, stillness and brightness are known because they were made that way."""

from __future__ import annotations

import numpy as np
import pytest

from avpref.datasets.evidence.clip_facts import FLOOR_DB, measure
from avpref.media.reading import DecodedClip

RATE_HZ, FPS_HZ, NUM_FRAMES = 16000, 8.0, 16
DURATION_S = NUM_FRAMES / FPS_HZ


def clip(audio: np.ndarray | None, frames: np.ndarray | None) -> DecodedClip:
    return DecodedClip(frames, FPS_HZ, audio, RATE_HZ, DURATION_S)


def tone(amplitude: float) -> np.ndarray:
    times = np.arange(round(RATE_HZ * DURATION_S)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def grey(level: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    return np.full((num_frames, 32, 48, 3), level, np.uint8)


@pytest.mark.parametrize("amplitude", [0.5, 0.05])
def test_a_tone_is_as_loud_as_it_is(amplitude: float) -> None:
    facts = measure("c", clip(tone(amplitude), grey(0)), 1000)
    assert facts.peak_db == pytest.approx(20 * np.log10(amplitude), abs=0.02)
    assert facts.loudness_db == pytest.approx(20 * np.log10(amplitude / np.sqrt(2)), abs=0.02)
    assert facts.silence_share == 0.0


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_silence_is_counted(share: float) -> None:
    audio = tone(0.5)
    audio[: round(share * len(audio))] = 0.0
    facts = measure("c", clip(audio, grey(0)), 1000)
    assert facts.silence_share == pytest.approx(share, abs=0.02)
    if share == 1.0:
        assert facts.loudness_db == facts.peak_db == FLOOR_DB


def test_a_still_picture_is_still_and_as_bright_as_it_is() -> None:
    facts = measure("c", clip(tone(0.1), grey(51)), 1000)
    assert (facts.motion, facts.still_share) == (0.0, 1.0)
    assert facts.brightness == pytest.approx(0.2)


def test_a_picture_that_flickers_moves() -> None:
    frames = np.concatenate([grey(level, 1) for level in (0, 51) * (NUM_FRAMES // 2)])
    facts = measure("c", clip(tone(0.1), frames), 1000)
    assert facts.motion == pytest.approx(0.2) and facts.still_share == 0.0
    assert facts.brightness == pytest.approx(0.1)


def test_a_clip_without_a_track_has_no_facts_of_it() -> None:
    silent, blind = measure("c", clip(None, grey(9)), 500), measure("c", clip(tone(0.5), None), 500)
    assert (silent.loudness_db, silent.peak_db, silent.silence_share) == (None, None, None)
    assert silent.brightness is not None
    assert (blind.motion, blind.still_share, blind.brightness) == (None, None, None)
    assert blind.bit_rate_bps == 8 * 500 / DURATION_S and blind.duration_s == DURATION_S
