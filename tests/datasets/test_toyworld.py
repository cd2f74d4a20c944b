"""The toy world: physics, picture, sound, defects, and the split."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.data_settings import ToyWorldPrompts
from avpref.datasets.prompts import toyworld
from avpref.datasets.prompts.toyworld import Drop
from avpref.domain import Split
from avpref.media.bands import BandLayout, analyse
from avpref.media.delay import delay_audio
from avpref.media.geometry import ClipShape
from avpref.media.toyscene import (
    ACCELERATION,
    BACKGROUND_RGB,
    BALL_RGB,
    FLOOR_LEVEL,
    RADIUS,
    RINGS,
    Gravity,
    StartSide,
    all_attributes,
    describe,
    understand,
)

SHAPE = ClipShape(16, 96, 96, 8.0, 16000)
DROPS = st.builds(
    Drop,
    height=st.floats(0.4, 0.68),
    hold_s=st.floats(0.0, 0.35),
    x=st.floats(0.14, 0.32),
    speed=st.floats(0.08, 0.25),
    restitution=st.floats(0.55, 0.8),
)


def test_prompts_say_everything_and_can_be_read_back() -> None:
    scenes = all_attributes()
    assert len({describe(scene) for scene in scenes}) == 36
    assert all(understand(describe(scene)) == scene for scene in scenes)
    assert (
        understand("Bounces, metallic; fast gravity, right: blue.".replace(";", ",").replace(":", ",")).side
        == StartSide.RIGHT
    )
    with pytest.raises(ValueError, match="found none"):
        understand("a whale swims")
    with pytest.raises(ValueError, match="blue, red"):
        understand(describe(scenes[0]).replace("red", "red blue"))


def test_the_split_is_fixed_balanced_and_complete() -> None:
    train, held_out = toyworld.texts(Split.TRAIN), toyworld.texts(Split.HELD_OUT)
    assert (len(train), len(held_out)) == (28, 8)
    assert not set(train) & set(held_out)
    for name in ("colour", "side", "gravity", "material"):
        counts = Counter(getattr(understand(text), name) for text in held_out)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(Counter(getattr(understand(text), name) for text in train)) == len(counts)


def test_prompts_are_instances() -> None:
    wanted = ToyWorldPrompts(num_prompts=70, num_evaluation_clips=20)
    prompts = toyworld.prompts(wanted, 5)
    assert len({prompt.prompt_id for prompt in prompts}) == 90
    assert len({prompt.source for prompt in prompts}) == 90
    train = [prompt for prompt in prompts if prompt.split == Split.TRAIN]
    assert len(train) == 70 and {prompt.text for prompt in train} == set(toyworld.texts(Split.TRAIN))
    counts = Counter(prompt.text for prompt in train)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {prompt.text for prompt in prompts[70:]} == set(toyworld.texts(Split.HELD_OUT))
    assert toyworld.prompts(wanted, 5) == prompts
    assert [prompt.text for prompt in toyworld.prompts(wanted, 6)] != [prompt.text for prompt in prompts]


def test_everything_is_derived_from_seeds() -> None:
    scene = all_attributes()[7]
    first, again, other = (toyworld.simulate(scene, seed, SHAPE) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.impact_times_s == again.impact_times_s != other.impact_times_s
    text, frames, audio = toyworld.sft_clip(11, 0, SHAPE)
    same_text, same_frames, same_audio = toyworld.sft_clip(11, 0, SHAPE)
    assert text == same_text and text in toyworld.texts(Split.TRAIN)
    np.testing.assert_array_equal(frames, same_frames)
    np.testing.assert_array_equal(audio, same_audio)
    prompts = toyworld.prompts(ToyWorldPrompts(num_prompts=60, num_evaluation_clips=1), 0)
    twins = [prompt for prompt in prompts if prompt.text == prompts[0].text]
    assert len(twins) > 1
    clips = [toyworld.ground_truth(prompt, 0, SHAPE)[1] for prompt in twins]
    assert not np.array_equal(clips[0], clips[1])


@given(drop=DROPS, gravity=st.sampled_from(list(Gravity)))
@settings(max_examples=50, deadline=None)
def test_the_ball_obeys(drop: Drop, gravity: Gravity) -> None:
    """Never below ground, on it at every impact, and its energy falls by the square of the restitution."""
    acceleration = ACCELERATION[gravity]
    times = np.linspace(0, 2, 4001)
    height = toyworld.height_at(times, drop, acceleration)
    impacts = toyworld.impacts_of(drop, acceleration, 2.0)
    assert height.min() > -1e-9 and height.max() <= drop.height + 1e-9
    assert impacts and all(np.interp(impact.time_s, times, height) < 2e-3 for impact in impacts)
    speeds = np.array([impact.speed for impact in impacts])
    np.testing.assert_allclose(speeds[1:], drop.restitution * speeds[:-1])
    np.testing.assert_allclose(speeds[0] ** 2, 2 * acceleration * drop.height)
    for first, second in itertools.pairwise(impacts):
        between = (times > first.time_s) & (times < second.time_s)
        top = (drop.restitution * first.speed) ** 2 / (2 * acceleration)
        np.testing.assert_allclose(height[between].max(), top, atol=1e-3)


def test_the_ball_is_drawn_where_it_is() -> None:
    for scene in all_attributes()[::5]:
        drop = Drop(height=0.5, hold_s=0.1, x=0.2, speed=0.2, restitution=0.7)
        frames = toyworld.render(scene, drop, SHAPE).astype(float)
        direction = np.array(BALL_RGB[scene.colour], float) - BACKGROUND_RGB
        share = ((frames - BACKGROUND_RGB) @ direction / (direction @ direction)).clip(0, 1)
        share[:, 86:] = 0
        share[share < 0.25] = 0
        rows, columns = (np.arange(96) + 0.5) / 96, (np.arange(96) + 0.5) / 96
        times = np.arange(16) / 8
        x = (share.sum(axis=1) @ columns) / share.sum(axis=(1, 2))
        expected_x = 0.2 + 0.2 * times
        np.testing.assert_allclose(x if scene.side == StartSide.LEFT else 1 - x, expected_x, atol=0.01)
        height = toyworld.height_at(times, drop, ACCELERATION[scene.gravity])
        flying = height > 0.02
        y = (share.sum(axis=2) @ rows) / share.sum(axis=(1, 2))
        np.testing.assert_allclose(y[flying], (FLOOR_LEVEL - height)[flying], atol=0.01)
        assert share[0].sum() / 96**2 == pytest.approx(np.pi * RADIUS**2, rel=0.05)


@pytest.mark.parametrize("scene", all_attributes()[::7], ids=describe)
def test_impacts_sound_when_they_happen_and_in_their_band(scene) -> None:
    layout = BandLayout(16000, 16.0, 8)
    band = int(np.searchsorted(layout.edges_hz, RINGS[scene.material].centre_hz)) - 1
    for seed in range(4):
        clip = toyworld.simulate(scene, seed, SHAPE)
        assert np.abs(clip.audio).max() < 1.0
        first = clip.impact_times_s[0]
        before, after = int(first * 16000) - 8, int(first * 16000) + 800
        assert np.abs(clip.audio[:before]).max() < 0.02 < np.abs(clip.audio[before:after]).max()
        power = (10 ** (analyse(clip.audio, layout) / 10)).sum(axis=0)
        assert power.argmax() == band and power[band] > 0.5 * power.sum()


def test_other_shapes() -> None:
    shape = ClipShape(24, 64, 128, 12.0, 8000)
    clip = toyworld.simulate(all_attributes()[20], 1, shape)
    assert clip.frames.shape == (24, 64, 128, 3) and clip.frames.dtype == np.uint8
    assert clip.audio.shape == (16000,) and clip.audio.dtype == np.float32


def test_the_shares_of_defects() -> None:
    counts: Counter[object] = Counter()
    for number in range(200):
        clip = toyworld.simulate(all_attributes()[number % 36], number, SHAPE)
        frames, audio = toyworld.with_defects(clip, toyworld.generator("test", number), SHAPE)
        counts["video"] += not np.array_equal(frames, clip.frames)
        floor = np.sqrt(np.square(audio[:4000]).mean())
        counts["noisy"] += bool(floor > 0.007)
        counts["changed"] += not np.array_equal(audio, clip.audio)
    changed = 1 - (1 - toyworld.NOISY_AUDIO_SHARE) * (1 - toyworld.DELAY_SHARE)
    shares = {"video": toyworld.NOISY_VIDEO_SHARE, "noisy": toyworld.NOISY_AUDIO_SHARE, "changed": changed}
    assert all(abs(counts[name] - 200 * share) <= 25 for name, share in shares.items()), counts


@given(delay_s=st.floats(0.0, 0.6))
@settings(max_examples=20, deadline=None)
def test_a_delay_moves_the_sound(delay_s: float) -> None:
    audio = toyworld.simulate(all_attributes()[0], 2, SHAPE).audio
    late = delay_audio(audio, delay_s, 16000)
    shift = round(delay_s * 16000)
    assert late.shape == audio.shape and late.dtype == np.float32
    np.testing.assert_array_equal(late[shift:], audio[: len(audio) - shift])
    assert not shift or np.sqrt(np.square(late[:shift]).mean()) < 0.01


def test_noise_is_as_strong_as_asked() -> None:
    clip = toyworld.simulate(all_attributes()[0], 2, SHAPE)
    noisy = toyworld.add_audio_noise(clip.audio, 0.05, toyworld.generator("a"))
    assert np.std(noisy - clip.audio) == pytest.approx(0.05, rel=0.05)
    grained = toyworld.add_video_noise(clip.frames, 10.0, toyworld.generator("b"))
    difference = grained[..., :80, :, :].astype(float) - clip.frames[..., :80, :, :]
    assert np.std(difference) == pytest.approx(10.0, rel=0.05)
    assert np.std(difference.reshape(16, 10, 8, 12, 8, 3).mean(axis=(2, 4))) == pytest.approx(10.0, rel=0.1)
