"""The toy scorer orders corruption: every metric falls with increasing corruption of clips that were written to files and read again."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np
import pytest

from avpref.config.codec_settings import IdentityCodecSettings
from avpref.datasets.prompts import toyworld
from avpref.datasets.prompts.toyworld import SimulatedClip
from avpref.domain import METRICS, ScoreStatus
from avpref.media.delay import delay_audio
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.toyscene import Attributes, Colour, Material, StartSide, all_attributes, describe
from avpref.media.writing import encode_clip
from avpref.models.codecs.codec import IdentityCodec
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.toy.toy import Evidence, ToyScorer

SHAPE = ClipShape(16, 96, 96, 8.0, 16000)
NUM_CLIPS = 64
DELAYS_S = (0.0, 0.125, 0.25, 0.5)
COLUMN = {metric.name: index for index, metric in enumerate(METRICS)}

Corruption = Callable[[SimulatedClip, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def codec() -> IdentityCodec:
    return IdentityCodec(IdentityCodecSettings(), SHAPE)


@pytest.fixture(scope="module")
def simulated() -> list[SimulatedClip]:
    scenes = all_attributes()
    return [toyworld.simulate(scenes[number % 36], 500 + number, SHAPE) for number in range(NUM_CLIPS)]


@pytest.fixture(scope="module")
def stored(codec: IdentityCodec, simulated: list[SimulatedClip]) -> Callable[[str, Corruption], list[DecodedClip]]:
    """Clips after a corruption, the codec and an mp4; worked out once per name."""
    known: dict[str, list[DecodedClip]] = {}

    def through_file(frames: np.ndarray, audio: np.ndarray) -> DecodedClip:
        latents = codec.encode([DecodedClip(frames, 8.0, audio, 16000, 2.0)])
        ((frames, audio),) = codec.decode(latents)
        return read_clip(io.BytesIO(encode_clip(frames, 8.0, audio, 16000)))

    def make(name: str, corrupt: Corruption) -> list[DecodedClip]:
        if name not in known:
            random = toyworld.generator("test corruption", name)
            known[name] = [through_file(*corrupt(clip, random)) for clip in simulated]
        return known[name]

    return make


def unchanged(clip: SimulatedClip, _: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return clip.frames, clip.audio


def delayed(delay_s: float) -> Corruption:
    return lambda clip, _: (clip.frames, delay_audio(clip.audio, delay_s, 16000))


def noisy(rms: float, std: float) -> Corruption:
    return lambda clip, random: (
        toyworld.add_video_noise(clip.frames, std, random),
        toyworld.add_audio_noise(clip.audio, rms, random),
    )


def blurred(sigma: float) -> Corruption:
    """Gaussian blur of ``sigma`` picture heights."""
    return lambda clip, _: (
        np.stack([cv2.GaussianBlur(frame, (0, 0), sigma * len(frame)) for frame in clip.frames]),
        clip.audio,
    )


def shaken(spread: float) -> Corruption:
    """Every frame moved by a random step: the picture is as sharp as before, the path is not ballistic."""

    def shake(clip: SimulatedClip, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        steps = np.rint(random.normal(0, spread * 96, (len(clip.frames), 2))).astype(int)
        frames = [np.roll(frame, tuple(step), (0, 1)) for frame, step in zip(clip.frames, steps, strict=True)]
        return np.stack(frames), clip.audio

    return shake


def numbers(clips: Sequence[DecodedClip], texts: Sequence[str], metric: str) -> np.ndarray:
    rows = ToyScorer().score([ScorableClip(str(k), *pair) for k, pair in enumerate(zip(texts, clips, strict=True))])
    scores = [row[COLUMN[metric]] for row in rows]
    assert all(score.status == ScoreStatus.OK for score in scores)
    return np.array([score.value for score in scores], float)


def auroc(better: np.ndarray, worse: np.ndarray) -> float:
    return float((better[:, None] > worse).mean() + (better[:, None] == worse).mean() / 2)


def texts_of(simulated: list[SimulatedClip]) -> list[str]:
    return [describe(clip.attributes) for clip in simulated]


def assert_falling(values: list[np.ndarray], at_least: float) -> None:
    """Means fall from copy to copy, and the clean clips are told from each copy."""
    means = [float(copy.mean()) for copy in values]
    assert all(first > second for first, second in itertools.pairwise(means)), means
    aurocs = [auroc(values[0], copy) for copy in values[1:]]
    assert min(aurocs) >= at_least and aurocs[-1] >= 0.99, aurocs


@pytest.mark.parametrize("metric", ["audio_video", "desync"])
def test_delays_are_ordered(stored, simulated: list[SimulatedClip], metric: str) -> None:
    texts, sign = texts_of(simulated), -1 if metric == "desync" else 1
    copies = [stored(f"delay {delay_s}", delayed(delay_s)) for delay_s in DELAYS_S]
    assert_falling([sign * numbers(copy, texts, metric) for copy in copies], at_least=0.95)


def test_desync_is_the_delay(stored, simulated: list[SimulatedClip]) -> None:
    for delay_s in DELAYS_S[:-1]:
        found = numbers(stored(f"delay {delay_s}", delayed(delay_s)), texts_of(simulated), "desync")
        assert np.abs(found - delay_s).mean() < 0.02
        assert np.quantile(np.abs(found - delay_s), 0.95) < 0.04


def test_impacts_and_onsets_are_found_when_they_happen(stored, simulated: list[SimulatedClip]) -> None:
    """Finer than the frames of the picture (125 ms) and of the sound (62.5 ms)."""
    clips = stored("delay 0.0", delayed(0.0))
    evidence = [Evidence(ScorableClip("c", "", clip)) for clip in clips]
    truth = np.array([clip.impact_times_s[0] for clip in simulated])
    seen = np.array([each.path.first_impact_s for each in evidence]) - truth
    heard = np.array([each.onsets.first_s for each in evidence]) - truth
    assert np.abs(seen).mean() < 0.01 and np.abs(seen).max() < 0.04
    assert np.abs(heard).mean() < 0.02 and np.abs(heard).max() < 0.05


def test_sound_noise_is_ordered(stored, simulated: list[SimulatedClip]) -> None:
    copies = [stored("delay 0.0", unchanged), stored("noise 1", noisy(0.015, 8)), stored("noise 2", noisy(0.06, 25))]
    texts = texts_of(simulated)
    assert_falling([numbers(copy, texts, "audio_quality") for copy in copies], at_least=0.95)


def test_picture_noise_is_ordered(stored, simulated: list[SimulatedClip]) -> None:
    copies = [stored("delay 0.0", unchanged), stored("noise 1", noisy(0.015, 8)), stored("noise 2", noisy(0.06, 25))]
    assert_falling([numbers(copy, texts_of(simulated), "visual_quality") for copy in copies], at_least=0.95)


def test_blur_is_ordered(stored, simulated: list[SimulatedClip]) -> None:
    copies = [stored("delay 0.0", unchanged), stored("blur 1", blurred(0.04)), stored("blur 2", blurred(0.1))]
    assert_falling([numbers(copy, texts_of(simulated), "visual_quality") for copy in copies], at_least=0.95)


def test_broken_paths_are_ordered(stored, simulated: list[SimulatedClip]) -> None:
    copies = [stored("delay 0.0", unchanged), stored("shake 1", shaken(0.03)), stored("shake 2", shaken(0.08))]
    assert_falling([numbers(copy, texts_of(simulated), "motion_quality") for copy in copies], at_least=0.95)


Member = TypeVar("Member", Colour, StartSide, Material)


def member_after(member: Member) -> Member:
    members = list(type(member))
    return members[(members.index(member) + 1) % len(members)]


def another(attributes: Attributes, name: str) -> Attributes:
    match name:
        case "colour":
            return dataclasses.replace(attributes, colour=member_after(attributes.colour))
        case "side":
            return dataclasses.replace(attributes, side=member_after(attributes.side))
        case "material":
            return dataclasses.replace(attributes, material=member_after(attributes.material))
    raise ValueError(f"{name!r} is none of the attributes that are told apart here")


@pytest.mark.parametrize(
    ("metric", "name"), [("text_video", "colour"), ("text_video", "side"), ("text_audio", "material")]
)
def test_wrong_prompts_are_told(stored, simulated: list[SimulatedClip], metric: str, name: str) -> None:
    """Also on noisy clips."""
    wrong = [describe(another(clip.attributes, name)) for clip in simulated]
    for clips in (stored("delay 0.0", unchanged), stored("noise 1", noisy(0.015, 8))):
        assert auroc(numbers(clips, texts_of(simulated), metric), numbers(clips, wrong, metric)) > 0.99


def test_sync_is_judged_in_noise(stored, simulated: list[SimulatedClip]) -> None:
    clips = stored("noise 1", noisy(0.015, 8))
    truth = numbers(clips, texts_of(simulated), "desync")
    assert np.quantile(truth, 0.9) < 0.05


def test_strange_clips_get_numbers() -> None:
    """Noise, a still ball, a clip of another size and rate: bad numbers perhaps, but numbers."""
    random = np.random.default_rng(0)
    still = np.repeat(toyworld.simulate(all_attributes()[0], 0, SHAPE).frames[:1], 16, axis=0)
    noise = random.integers(0, 255, (16, 96, 96, 3)).astype(np.uint8)
    hiss = (0.1 * random.standard_normal(32000)).astype(np.float32)
    clips = [
        DecodedClip(still, 8.0, hiss, 16000, 2.0),
        DecodedClip(noise, 8.0, hiss, 16000, 2.0),
        DecodedClip(random.integers(0, 255, (30, 90, 160, 3)).astype(np.uint8), 29.97, hiss[:22072], 22050, 1.001),
        DecodedClip(noise[:4], 8.0, np.full(8000, 0.5, np.float32), 16000, 0.5),
    ]
    for row in ToyScorer().score([ScorableClip("c", describe(all_attributes()[0]), clip) for clip in clips]):
        assert all(score.value is not None and math.isfinite(score.value) for score in row)


def test_prompts_of_another_world_are_skipped() -> None:
    clip = toyworld.simulate(all_attributes()[0], 0, SHAPE)
    decoded = DecodedClip(clip.frames, 8.0, clip.audio, 16000, 2.0)
    for score in ToyScorer().score([ScorableClip("c", "a whale swims", decoded)])[0]:
        assert (score.status == ScoreStatus.SKIPPED) == score.metric.startswith("text_")
