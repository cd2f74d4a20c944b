"""The networks themselves, where their packages are installed: contract, determinism, global state, and what they can tell apart."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from present import present

from avpref.config.learned_names import MODULES_OF, absent_modules
from avpref.domain import Dimension, ScoreStatus
from avpref.media.reading import DecodedClip, read_clip
from avpref.rewards.learned.learned_catalogue import LEARNED
from avpref.rewards.protocol import ScorableClip, Scorer

RATE_HZ = 16000


@pytest.fixture(scope="module")
def opened() -> dict[str, Scorer]:
    """The scorers that were opened so far."""
    return {}


@pytest.fixture
def scorer(request: pytest.FixtureRequest, opened: dict[str, Scorer]) -> Scorer:
    name = request.param
    if absent := absent_modules(name):
        pytest.skip(f"{name}: {', '.join(absent)} not installed (see docs/learned-scorers.md)")
    return opened.setdefault(name, LEARNED[name].open())


every_scorer = pytest.mark.parametrize("scorer", list(MODULES_OF), indirect=True)


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scorer", [name], indirect=True)


def scene(seed: int, num_frames: int = 24) -> np.ndarray:
    """A textured picture that moves slowly."""
    texture = np.random.default_rng(seed).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    picture = np.kron(texture, np.ones((10, 10, 1), np.uint8))
    return np.stack([np.roll(picture, index, axis=1) for index in range(num_frames)])


def clip(seed: int) -> DecodedClip:
    sound = np.random.default_rng(seed).standard_normal(3 * RATE_HZ // 2).astype(np.float32)
    return DecodedClip(scene(seed), 16.0, 0.1 * sound, RATE_HZ, 1.5)


def numbers(scorer: Scorer, *clips: DecodedClip) -> list[dict[str, float | None]]:
    rows = scorer.score([ScorableClip(f"c{index}", "a text", item) for index, item in enumerate(clips)])
    return [{score.metric: score.value for score in row} for row in rows]


@every_scorer
def test_scores_follow_the_contract(scorer: Scorer) -> None:
    clips = [clip(0), clip(1), clip(2)]
    for item in clips:
        present(item.frames).setflags(write=False)
        present(item.audio).setflags(write=False)
    rows = scorer.score([ScorableClip(f"c{index}", "", item) for index, item in enumerate(clips)])
    assert [[score.metric for score in row] for row in rows] == [[metric.name for metric in scorer.metrics]] * 3
    assert all(bool(score.reason) == (score.status == ScoreStatus.SKIPPED) for row in rows for score in row)
    assert numbers(scorer, *reversed(clips)) == numbers(scorer, *clips)[::-1]
    assert numbers(scorer, clips[1]) == numbers(scorer, *clips)[1:2]
    assert scorer.score([]) == []


@every_scorer
def test_clips_that_cannot_be_judged_are_skipped(scorer: Scorer) -> None:
    item = clip(0)
    is_sound = scorer.metrics[0].dimension == Dimension.AUDIO
    broken = {
        "no audio track": DecodedClip(item.frames, 16.0, None, 0, 1.5),
        "silent": DecodedClip(item.frames, 16.0, np.zeros(RATE_HZ, np.float32), RATE_HZ, 1.5),
        "no video track": DecodedClip(None, 0.0, item.audio, RATE_HZ, 1.5),
        "blank picture": DecodedClip(np.zeros_like(item.frames), 16.0, item.audio, RATE_HZ, 1.5),
    }
    for reason in ("no audio track", "silent") if is_sound else ("no video track", "blank picture"):
        (row,) = scorer.score([ScorableClip("c", "", broken[reason])])
        assert all(score.value is None and reason in score.reason for score in row)


@pytest.mark.parametrize("name", list(MODULES_OF))
def test_loading_and_scoring_leave_global_state_alone(name: str) -> None:
    if absent := absent_modules(name):
        pytest.skip(f"{name}: {', '.join(absent)} not installed (see docs/learned-scorers.md)")
    torch.set_num_threads(2)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    source = LEARNED[name]
    scorer = source.open()
    scorer.score([ScorableClip("c", "", clip(0))])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()
    assert scorer.fingerprint == source.fingerprint and scorer.metrics == source.metrics


@only("shot_cuts")
def test_a_cut_between_scenes_is_counted(scorer: Scorer) -> None:
    spliced = np.concatenate([scene(1, 14), scene(2, 10)])
    item = clip(1)
    assert numbers(scorer, item) == [{"shot_cuts": 0.0}]
    assert numbers(scorer, DecodedClip(spliced, 16.0, item.audio, RATE_HZ, 1.5)) == [{"shot_cuts": 1.0}]


@only("screen_text")
def test_drawn_words_are_read(scorer: Scorer) -> None:
    import cv2

    item = DecodedClip(np.full((4, 240, 480, 3), 60, np.uint8), 16.0, None, 0, 1.0)
    frames = present(item.frames).copy()
    frames[..., :40, :] = 90
    for frame in frames:
        cv2.putText(frame, "SUBSCRIBE NOW", (60, 150), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (255, 255, 255), 3)
    plain, written = numbers(scorer, DecodedClip(scene(0), 16.0, None, 0, 1.5), DecodedClip(frames, 16.0, None, 0, 1.0))
    assert plain == {"text_area": 0.0, "text_regions": 0.0}
    assert present(written["text_area"]) > 0.05 and present(written["text_regions"]) >= 1


@only("speech_quality")
def test_noise_lowers_the_quality_of_real_speech(scorer: Scorer, media: Path) -> None:
    spoken = read_clip(media / "telescope.mp4", duration_s=3.0, start_s=2.0)
    sound = present(spoken.audio)
    noise = np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32) * sound.std()
    noisy = DecodedClip(None, 0.0, sound + noise, spoken.sample_rate_hz, 3.0)
    (clean, spoilt) = numbers(scorer, spoken, noisy)
    for metric in ("speech_overall", "speech_background", "speech_p808"):
        assert present(clean[metric]) > present(spoilt[metric]) + 0.2


@only("speech")
def test_speech_is_told_from_a_barking_dog(scorer: Scorer, media: Path) -> None:
    spoken, dog = (read_clip(media / name, duration_s=3.0, start_s=2.0) for name in ("telescope.mp4", "dog.mp4"))
    assert [row["speech_share"] for row in numbers(scorer, spoken, dog)] == [pytest.approx(0.9, abs=0.1), 0.0]


@only("sound_classes")
def test_music_is_told_from_a_barking_dog(scorer: Scorer, media: Path) -> None:
    with_music, dog = (read_clip(media / name, duration_s=3.0, start_s=2.0) for name in ("telescope.mp4", "dog.mp4"))
    assert [row["music_share"] for row in numbers(scorer, with_music, dog)] == [pytest.approx(1.0, abs=0.1), 0.0]


@only("faces")
def test_the_face_of_a_player_is_seen_and_a_dog_has_none(scorer: Scorer, media: Path) -> None:
    player, dog = (read_clip(media / name, duration_s=3.0, start_s=2.0) for name in ("tennis.mp4", "dog.mp4"))
    seen, unseen = numbers(scorer, player, dog)
    assert seen["num_faces"] == 1.0 and 0 < present(seen["face_area"]) < 0.01
    assert unseen == {"num_faces": 0.0, "face_area": 0.0}
