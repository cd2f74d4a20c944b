"""AudioBox-Aesthetics: what its numbers depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avpref.domain import Score, ScoreStatus
from avpref.media.reading import DecodedClip, read_clip
from avpref.rewards.audiobox.audiobox import (
    AUDIOBOX_METRICS,
    AXIS_METRICS,
    WINDOW,
    AudioBoxScorer,
    AxisScale,
    tiny_audiobox,
)
from avpref.rewards.audiobox.audiobox_network import (
    FULL,
    TINY,
    AudioBoxNetwork,
    num_frames,
    position_bucket,
    valid_frames,
)
from avpref.rewards.model_scorer import CPU, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS, fill
from avpref.storage.weight_files import on_meta


def scorable(audio: np.ndarray, rate_hz: int = 16000, name: str = "c") -> ScorableClip:
    """A clip of sound [S] or [C, S] without a picture."""
    channels = audio if audio.ndim == 2 else None
    mono = audio.mean(axis=0) if audio.ndim == 2 else audio
    return ScorableClip(name, "", DecodedClip(None, 0.0, mono, rate_hz, len(mono) / rate_hz, 0.0, channels))


def noise(duration_s: float, seed: int = 0, rate_hz: int = 16000) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(duration_s * rate_hz), np.float32)


def values(row: list[Score]) -> list[float]:
    assert all(score.status == ScoreStatus.OK and score.value is not None for score in row), row
    return [score.value for score in row if score.value is not None]


@pytest.fixture(scope="module")
def tiny() -> AudioBoxScorer:
    return tiny_audiobox()


def test_the_column_is_the_mean_of_the_axes(tiny: AudioBoxScorer) -> None:
    assert [metric.name for metric in tiny.metrics] == [
        "audiobox_ce",
        "audiobox_cu",
        "audiobox_pc",
        "audiobox_pq",
        "audio_quality",
    ]
    found = values(tiny.score([scorable(noise(2.0))])[0])
    assert found[4] == pytest.approx(sum(found[:4]) / 4) and len(set(found)) == 5
    assert tiny.terms == MEANINGLESS and tiny.metrics == AUDIOBOX_METRICS


def test_numbers_do_not_depend_on_the_other_clips(tiny: AudioBoxScorer) -> None:
    clips = [scorable(noise(duration_s, seed)) for seed, duration_s in enumerate((1.0, 21.3, 0.5, 10.0, 4.0))]
    together = np.array([values(row) for row in tiny.score(clips)])
    alone = np.array([values(tiny.score([clip])[0]) for clip in clips])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)
    backwards = np.array([values(row) for row in tiny.score(clips[::-1])])
    np.testing.assert_allclose(backwards[::-1], alone, rtol=0, atol=2e-6)


def test_equal_clips_get_equal_numbers(tiny: AudioBoxScorer) -> None:
    audio = noise(3.0)
    assert values(tiny.score([scorable(audio)])[0]) == values(tiny.score([scorable(audio.copy())])[0])


def test_a_long_clip_is_the_mean_of_its_windows_by_length(tiny: AudioBoxScorer) -> None:
    audio = noise(24.0)
    parts = [values(tiny.score([scorable(audio[at : at + WINDOW])])[0]) for at in range(0, len(audio), WINDOW)]
    expected = np.average(parts, axis=0, weights=[10, 10, 4])
    np.testing.assert_allclose(values(tiny.score([scorable(audio)])[0]), expected, rtol=0, atol=2e-6)


def test_no_more_windows_go_through_at_once_than_clips(tiny: AudioBoxScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = AudioBoxNetwork.forward

    def watched(self: AudioBoxNetwork, windows: Tensor, lengths: Tensor) -> Tensor:
        seen.append(len(windows))
        return forward(self, windows, lengths)

    monkeypatch.setattr(AudioBoxNetwork, "forward", watched)
    clips = [scorable(noise(duration_s)) for duration_s in (25.0, 1.0, 12.0)]
    values(AudioBoxScorer.score(tiny, clips)[2])
    assert seen == [3, 3]


def test_the_sound_of_both_channels_counts(tiny: AudioBoxScorer) -> None:
    left, right = noise(2.0, 1), noise(2.0, 2)
    stereo = values(tiny.score([scorable(np.stack([left, right]))])[0])
    assert stereo == pytest.approx(values(tiny.score([scorable((left + right) / 2)])[0]), abs=1e-6)
    assert stereo != pytest.approx(values(tiny.score([scorable(left)])[0]), abs=1e-6)


def test_rates_make_little_difference(tiny: AudioBoxScorer) -> None:
    t = np.arange(96000) / 48000
    audio = (0.2 * np.sin(2 * np.pi * 440 * t) * (1 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)
    at_48k, at_16k = (values(tiny.score([scorable(x, hz)])[0]) for x, hz in ((audio, 48000), (audio[::3], 16000)))
    assert at_48k == pytest.approx(at_16k, abs=1e-2)
    assert values(tiny.score([scorable(np.stack([noise(2.0, rate_hz=8000)] * 2), 8000)])[0])


@pytest.mark.parametrize(
    ("clip", "why"),
    [
        (scorable(noise(0.3)), "too short"),
        (scorable(np.zeros(64000, np.float32)), "silent"),
        (scorable(np.zeros(0, np.float32)), "silent"),
        (scorable(np.full(64000, np.nan, np.float32)), "silent"),
        (ScorableClip("c", "", DecodedClip(np.zeros((8, 9, 9, 3), np.uint8), 8.0, None, 0, 1.0)), "no audio track"),
    ],
)
def test_what_cannot_be_judged_gets_a_reason(tiny: AudioBoxScorer, clip: ScorableClip, why: str) -> None:
    for score in tiny.score([clip, scorable(noise(1.0))])[0]:
        assert score.status == ScoreStatus.SKIPPED and score.value is None and why in score.reason


def test_the_picture_and_the_text_do_not_matter(tiny: AudioBoxScorer) -> None:
    heard = scorable(noise(1.0))
    still = np.full((8, 31, 17, 3), 7, np.uint8)
    seen = ScorableClip("c", "<|endoftext|> " * 400, replace(heard.clip, frames=still, fps_hz=8.0))
    assert tiny.score([seen]) == tiny.score([heard])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_come_close(tiny: AudioBoxScorer, dtype: torch.dtype) -> None:
    other = tiny_audiobox(Placement(dtype=dtype))
    clips = [scorable(noise(2.0)), scorable(noise(11.0, 1))]
    found, expected = ([values(row) for row in scorer.score(clips)] for scorer in (other, tiny))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-2)
    assert other.fingerprint != tiny.fingerprint


@given(st.integers(1, WINDOW))
def test_a_frame_is_valid_where_any_of_its_samples_is(length: int) -> None:
    frames = num_frames(WINDOW)
    each = WINDOW // frames
    mask = np.arange(WINDOW) < length
    expected = mask[: frames * each].reshape(frames, each).any(axis=1)
    np.testing.assert_array_equal(valid_frames(torch.tensor([length]), WINDOW)[0], expected)


def test_what_follows_the_sound_is_not_attended_to() -> None:
    network = on_meta(lambda: AudioBoxNetwork(TINY))
    fill(network)
    hidden = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 50, TINY.width), np.float32))
    is_valid = torch.arange(50)[None] < 30
    louder = torch.where(is_valid[..., None], hidden, 100 * hidden)
    with torch.inference_mode():
        found, expected = (network.wavlm_model.encoder(each, is_valid)[-1][:, :30] for each in (louder, hidden))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@given(st.integers(-2000, 2000))
def test_buckets_are_exact_nearby_and_grow_with_distance(distance: int) -> None:
    here, farther = (int(position_bucket(torch.tensor(each), 320, 800)) for each in (distance, distance * 2))
    assert here == abs(distance) + 160 * (distance > 0) if abs(distance) < 80 else 80 <= here % 160 < 160
    assert here <= farther < 320


@pytest.mark.slow
def test_a_full_size_network_scores_a_real_clip(media: Path) -> None:
    network = on_meta(lambda: AudioBoxNetwork(FULL))
    fill(network)
    scorer = AudioBoxScorer(network, [AxisScale(5.0, 1.0)] * 4, CPU, weights_id="random", terms=MEANINGLESS)
    path = next(path for path in sorted(media.rglob("*.mp4")) if path.name == "dog.mp4")
    found = values(scorer.score([ScorableClip("dog", "a dog", read_clip(path, None, duration_s=4.0))])[0])
    assert len(found) == len(AXIS_METRICS) + 1 and len(set(found)) == len(found)
