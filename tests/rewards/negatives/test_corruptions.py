"""Negatives: each does what it says, nothing else, the same every time, and says so where it cannot."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from present import present

from avpref.media.reading import DecodedClip
from avpref.rewards.negatives.corruptions import (
    DELAY_STEPS_S,
    SEED_KINDS,
    Absent,
    Negative,
    NegativeKind,
    delayed_negatives,
    draws_of_kind,
    negatives,
)
from avpref.rewards.negatives.cuts import Cut, Donor, NotApplicable
from avpref.rewards.negatives.picture_corruptions import (
    GREY,
    CyclicShift,
    GridMask,
    PastedObject,
    Stall,
    draw_grid_mask,
    draw_stall,
)
from avpref.rewards.negatives.sound_corruptions import (
    AddedSource,
    ChangedSpeed,
    Delay,
    DeletedSource,
    Envelope,
    InsertedSilence,
    OtherWindow,
    RepeatedSegment,
    Shape,
    SwappedSound,
    delay,
    draw_other_window,
)
from avpref.rewards.negatives.stretching import change_speed

RATE_HZ, FPS_HZ, WINDOW_S, SIDE = 8000, 15.0, 2.0, (48, 60)
NUM = round(RATE_HZ * WINDOW_S)
PICTURE_KINDS = (NegativeKind.VIDEO_SPATIAL, NegativeKind.VIDEO_TEMPORAL)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def cut_of(
    name: str = "a.mp4@1.000",
    *,
    num_frames: int = 30,
    num_channels: int = 2,
    before: int = NUM,
    after: int = NUM,
    gain: float = 0.1,
    seed: int = 0,
) -> Cut:
    draw = random(seed)
    frames = draw.integers(0, 256, (num_frames, *SIDE, 3), dtype=np.uint8)
    sound = (gain * draw.normal(size=(num_channels, before + NUM + after))).astype(np.float32)
    channels = sound[:, before : before + NUM]
    clip = DecodedClip(frames, FPS_HZ, channels.mean(axis=0), RATE_HZ, WINDOW_S, 1.0, channels)
    return Cut(name, clip, sound, before)


def donor_of(seed: int = 9, gain: float = 0.1) -> Donor:
    return Donor("b.mp4@0.000", cut_of(seed=seed, gain=gain, num_channels=1).clip)


CUT, DONOR = cut_of(), donor_of()


def made(cut: Cut = CUT, donor: Donor | None = DONOR, seeds: int = 40) -> list[Negative]:
    found = [each for index in range(seeds) for each in negatives(cut, donor, seed=1, index=index)]
    assert all(isinstance(each, Negative) for each in found)
    return [each for each in found if isinstance(each, Negative)]


def frames_of(clip: DecodedClip) -> NDArray[np.uint8]:
    return present(clip.frames)


def channels_of(clip: DecodedClip) -> NDArray[np.float32]:
    """The channels as they were read, not the mono sound."""
    return present(clip.channels)


def sound_of(clip: DecodedClip) -> NDArray[np.float32]:
    return present(clip.audio)


def same(one: DecodedClip, other: DecodedClip) -> bool:
    return np.array_equal(frames_of(one), frames_of(other)) and np.array_equal(channels_of(one), channels_of(other))


def number(negative: Negative, name: str) -> float:
    """A parameter that is a number."""
    value = negative.parameters[name]
    assert isinstance(value, (int, float))
    return value


def test_every_kind_and_every_corruption_comes_up() -> None:
    ops = Counter((each.kind, each.op) for each in made(seeds=60))
    assert {kind for kind, _ in ops} == set(SEED_KINDS)
    for kind in SEED_KINDS:
        counts = [count for (found, _), count in ops.items() if found == kind]
        assert len(counts) == len(draws_of_kind(kind)) and min(counts) >= 60 / len(counts) / 3


def test_negatives_keep_shapes_and_touch_one_track() -> None:
    for each in made():
        clip, whole = each.clip, CUT.clip
        frames, channels = frames_of(clip), channels_of(clip)
        assert frames.shape == CUT.frames.shape and frames.dtype == np.uint8
        assert channels.shape == channels_of(whole).shape and channels.dtype == np.float32
        np.testing.assert_array_equal(sound_of(clip), channels.mean(axis=0))
        assert np.isfinite(channels).all() and np.abs(channels).max() <= 1.0
        assert (clip.fps_hz, clip.sample_rate_hz, clip.duration_s) == (FPS_HZ, RATE_HZ, WINDOW_S)
        if each.kind in PICTURE_KINDS:
            assert clip.channels is whole.channels and not np.array_equal(frames, CUT.frames)
        else:
            assert clip.frames is whole.frames and not np.array_equal(channels, channels_of(whole))


def test_the_clip_that_negatives_are_made_of_stays_as_it_was() -> None:
    cut, untouched = cut_of(), cut_of()
    made(cut), delayed_negatives(cut)
    assert same(cut.clip, untouched.clip)
    np.testing.assert_array_equal(cut.sound, untouched.sound)


def test_equal_inputs_give_equal_negatives_and_any_other_input_others() -> None:
    first, again = made(seeds=5), made(cut_of(), donor_of(), seeds=5)
    assert [each.parameters for each in first] == [each.parameters for each in again]
    assert all(same(one.clip, other.clip) for one, other in zip(first, again, strict=True))
    assert len({json.dumps(dict(each.parameters)) for each in made() if each.op == GridMask.name}) > 10
    named = [each for each in negatives(cut_of("c.mp4@1.000"), DONOR, seed=1) if isinstance(each, Negative)]
    other_seed = [each for each in negatives(CUT, DONOR, seed=2) if isinstance(each, Negative)]
    base = [each.parameters for each in first[: len(SEED_KINDS)]]
    assert [each.parameters for each in named] != base != [each.parameters for each in other_seed]


def test_a_kind_does_not_depend_on_which_others_are_made() -> None:
    (alone,) = negatives(CUT, DONOR, 1, kinds=[NegativeKind.AUDIO_TEMPORAL])
    among = next(each for each in negatives(CUT, DONOR, 1) if each.kind is NegativeKind.AUDIO_TEMPORAL)
    assert isinstance(alone, Negative) and isinstance(among, Negative)
    assert (alone.op, alone.parameters) == (among.op, among.parameters)


def test_parameters_are_plain_and_tell_all() -> None:
    ops = {
        op.name: op
        for op in (
            AddedSource,
            ChangedSpeed,
            CyclicShift,
            DeletedSource,
            Envelope,
            GridMask,
            InsertedSilence,
            OtherWindow,
            PastedObject,
            RepeatedSegment,
            Stall,
            SwappedSound,
        )
    }
    for each in made(seeds=15):
        parameters = json.loads(json.dumps(dict(each.parameters)))
        if "cells" in parameters:
            parameters["cells"] = tuple(parameters["cells"])
        assert same(ops[each.op](**parameters)(CUT, DONOR), each.clip)


def test_a_grid_mask_covers_its_share_in_every_frame_with_grey() -> None:
    for seed in range(20):
        mask = draw_grid_mask(CUT, None, random(seed))
        assert isinstance(mask, GridMask) and mask.side_px == min(SIDE) // 6
        frames = frames_of(mask(CUT, None))
        is_grey = (frames == GREY).all(axis=(0, 3))
        assert is_grey.mean() == pytest.approx(mask.share, abs=0.05)
        assert 0.2 <= mask.share <= 0.8
        np.testing.assert_array_equal(frames[:, ~is_grey], CUT.frames[:, ~is_grey])


def test_a_pasted_object_moves_and_plays_the_donors_picture() -> None:
    pasted = PastedObject("b", 4, 12, 10, 20, 3, 5, 0, 0, 30, 40)
    frames, donor = frames_of(pasted(CUT, DONOR)), frames_of(DONOR.clip)
    changed = (frames != CUT.frames).any(axis=3)
    assert not changed[:4].any() and not changed[16:].any()
    np.testing.assert_array_equal(frames[4, 5, 10], donor[4, 3 + 5, 5 + 10])
    np.testing.assert_array_equal(frames[15, 30 + 5, 40 + 10], donor[15, 3 + 5, 5 + 10])
    assert not changed[4, 0, 0]  # an ellipse, not a box
    for each in made():
        if each.op == PastedObject.name:
            touched = (frames_of(each.clip) != CUT.frames).any(axis=(1, 2, 3))
            assert touched.sum() >= 12 and touched.sum() == number(each, "num_frames")


def test_a_picture_shifts_round_and_stalls() -> None:
    shifted, stalled = frames_of(CyclicShift(7)(CUT, None)), frames_of(Stall(4, 12)(CUT, None))
    np.testing.assert_array_equal(np.concatenate([shifted[7:], shifted[:7]]), CUT.frames)
    assert all(np.array_equal(stalled[index], CUT.frames[4]) for index in range(4, 17))
    np.testing.assert_array_equal(stalled[17:], CUT.frames[5:18])
    np.testing.assert_array_equal(stalled[:4], CUT.frames[:4])
    for each in made():
        if each.op == CyclicShift.name:
            assert 3 <= number(each, "num_frames") < 15
        if each.op == Stall.name:
            assert 12 <= number(each, "num_frames") <= 15


def test_sources_are_added_at_equal_loudness_and_deleted_to_silence() -> None:
    added = channels_of(AddedSource("b", 0.5, 1.0, 0.25, 2.0)(CUT, DONOR))
    expected = CUT.channels[:, 4000:12000] + 2 * sound_of(DONOR.clip)[2000:10000]
    np.testing.assert_allclose(added[:, 4000:12000], np.clip(expected, -1, 1), rtol=1e-6)
    np.testing.assert_array_equal(added[:, 12000:], CUT.channels[:, 12000:])
    deleted = channels_of(DeletedSource(0.5, 1.0)(CUT, None))
    assert not deleted[:, 4000:12000].any() and deleted[:, :4000].all()
    quiet = donor_of(gain=0.01)
    for each in (one for one in made(CUT, quiet) if one.op == AddedSource.name):
        assert number(each, "gain") == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize("shape", Shape)
def test_an_envelope_ends_with_its_stretch(shape: Shape) -> None:
    changed = channels_of(Envelope(shape.value, 1.5, 0.5, 1.0)(CUT, None))
    np.testing.assert_array_equal(changed[:, :4000], CUT.channels[:, :4000])
    np.testing.assert_array_equal(changed[:, 12000:], CUT.channels[:, 12000:])
    factor = (changed / CUT.channels)[0, 4000:12000]
    starts, middle, ends = {
        Shape.SINE: (0, 1.5, 0),
        Shape.COSINE: (1.5, 0, 1.5),
        Shape.UP: (0, 0.75, 1.5),
        Shape.DOWN: (1.5, 0.75, 0),
    }[shape]
    assert (factor[0], factor[4000], factor[-1]) == pytest.approx((starts, middle, ends), abs=1e-3)


def test_time_is_changed_as_said() -> None:
    first = CUT.first
    later = channels_of(OtherWindow(0.5)(CUT, None))
    np.testing.assert_array_equal(later, CUT.sound[:, first + 4000 : first + 4000 + NUM])
    silent = channels_of(InsertedSilence(0.25, 0.5)(CUT, None))
    assert not silent[:, 2000:6000].any()
    np.testing.assert_array_equal(silent[:, 6000:], CUT.channels[:, 2000 : NUM - 4000])
    repeated = channels_of(RepeatedSegment(0.25, 0.5)(CUT, None))
    np.testing.assert_array_equal(repeated[:, 2000:6000], repeated[:, 6000:10000])
    np.testing.assert_array_equal(repeated[:, 10000:], CUT.channels[:, 6000 : NUM - 4000])
    fast = channels_of(ChangedSpeed(2.0, 0.5, 1.0)(CUT, None))
    np.testing.assert_array_equal(fast[:, 8000:], CUT.sound_from(12000, NUM - 8000))
    slow = channels_of(ChangedSpeed(0.5, 0.5, 0.5)(CUT, None))
    np.testing.assert_array_equal(slow[:, 12000:], CUT.channels[:, 8000 : NUM - 4000])


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_stretching_keeps_pitch_and_changes_length(speed: float) -> None:
    times_s = np.arange(2 * RATE_HZ) / RATE_HZ
    tone = 0.5 * np.sin(2 * np.pi * 440 * times_s).astype(np.float32)
    changed = change_speed(np.stack([tone, tone]), speed, RATE_HZ)
    assert changed.shape == (2, round(len(tone) / speed))
    np.testing.assert_array_equal(changed[0], changed[1])
    inner = changed[0, 1000:-1000]
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert np.argmax(spectrum) * RATE_HZ / len(inner) == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_stretching_moves_events_in_proportion() -> None:
    clicks = np.zeros((1, 2 * RATE_HZ), np.float32)
    for at in (4000, 8000, 12000):
        clicks[0, at : at + 200] = 0.1 * random(3).normal(size=200)
    slow = change_speed(clicks, 0.5, RATE_HZ)
    for at in (4000, 8000, 12000):
        assert np.abs(slow[0, 2 * at - 500 : 2 * at + 1100]).max() > 0.1


def test_the_sound_of_another_recording_replaces_all_channels() -> None:
    swapped = channels_of(SwappedSound("b")(CUT, DONOR))
    np.testing.assert_array_equal(swapped, np.repeat(sound_of(DONOR.clip)[None], 2, axis=0))
    longer = Donor("b", replace(DONOR.clip, audio=np.ones(NUM + 100, np.float32), channels=None))
    shorter = Donor("b", replace(DONOR.clip, audio=np.ones(NUM - 100, np.float32), channels=None))
    assert channels_of(SwappedSound("b")(CUT, longer)).sum() == 2 * NUM
    assert channels_of(SwappedSound("b")(CUT, shorter)).sum() == 2 * (NUM - 100)


def test_delays_go_both_ways_with_the_recordings_own_sound() -> None:
    steps = [each for each in delayed_negatives(CUT) if isinstance(each, Negative)]
    assert {(each.op, each.step_s) for each in steps} == {
        (way, step) for way in ("late", "early") for step in DELAY_STEPS_S if step <= WINDOW_S / 2
    }
    for each in steps:
        shift = round(each.step_s * RATE_HZ) * (1 if each.op == "late" else -1)
        np.testing.assert_array_equal(each.clip.channels, CUT.sound[:, CUT.first - shift : CUT.first - shift + NUM])
        assert each.parameters == {"shift_s": shift / RATE_HZ, "silence_s": 0.0}
    left_out = [each for each in delayed_negatives(CUT) if isinstance(each, Absent)]
    assert {each.reason for each in left_out} == {
        "1.5 s is more than half a window of 2 s",
        "2 s is more than half a window of 2 s",
    }


@given(st.integers(-NUM, NUM), st.integers(0, NUM), st.integers(0, NUM))
def test_delays_are_silent_where_the_recording_is_not_known(shift: int, before: int, after: int) -> None:
    cut = cut_of(before=before, after=after, num_frames=2)
    late = delay(cut, shift / RATE_HZ)
    heard = channels_of(late(cut, None))
    missing = int(np.sum(~heard.any(axis=0)))
    assert round(late.silence_s * RATE_HZ) == missing == max(0, shift - before, -shift - after)
    there = slice(max(0, shift - before), NUM - max(0, -shift - after))
    np.testing.assert_array_equal(heard[:, there], cut.sound_from(-shift, NUM)[:, there])
    assert delay(cut, 0.0) == Delay(0.0, 0.0) and same(delay(cut, 0.0)(cut, None), cut.clip)


@given(st.integers(0, NUM), st.integers(0, NUM), st.integers(0, 1000))
def test_other_windows_lie_in_the_recording_and_apart(before: int, after: int, seed: int) -> None:
    cut = cut_of(before=before, after=after, num_frames=2)
    drawn = draw_other_window(cut, None, random(seed))
    if max(before, after) < NUM // 10:
        assert isinstance(drawn, NotApplicable)
    else:
        assert isinstance(drawn, OtherWindow)
        shift = round(drawn.shift_s * RATE_HZ)
        assert abs(shift) >= NUM // 10 and -before <= shift <= after
        assert channels_of(drawn(cut, None)).any(axis=0).all()


def test_every_other_window_can_be_drawn_to_the_very_end() -> None:
    cut = cut_of(before=0, after=NUM // 10 + 2, num_frames=2)
    drawn = [draw_other_window(cut, None, random(seed)) for seed in range(200)]
    windows = [window for window in drawn if isinstance(window, OtherWindow)]
    assert len(windows) == 200
    assert {round(window.shift_s * RATE_HZ) for window in windows} == {NUM // 10, NUM // 10 + 1, NUM // 10 + 2}


def test_without_another_recording_only_what_needs_none_is_made() -> None:
    found = [each for index in range(20) for each in negatives(CUT, None, seed=1, index=index)]
    swapped = [each for each in found if each.kind is NegativeKind.SWAPPED_AUDIO]
    assert all(isinstance(each, Absent) and each.reason == "needs another recording" for each in swapped)
    others = [each for each in found if each.kind is not NegativeKind.SWAPPED_AUDIO]
    assert all(isinstance(each, Negative) for each in others)
    assert not {each.op for each in others} & {PastedObject.name, AddedSource.name}


def test_a_silent_clip_gets_a_foreign_source_or_another_window() -> None:
    silent = cut_of(gain=0.0)
    found = [each for index in range(10) for each in negatives(silent, DONOR, seed=1, index=index)]
    spatial = {each.op for each in found if each.kind is NegativeKind.AUDIO_SPATIAL}
    temporal = [each for each in found if each.kind is NegativeKind.AUDIO_TEMPORAL]
    assert spatial == {AddedSource.name}
    assert temporal and all(
        isinstance(each, Absent) and (each.op, each.reason) == (OtherWindow.name, "changes nothing in this clip")
        for each in temporal
    )
    (alone,) = negatives(cut_of(gain=0.0, before=0, after=0), None, seed=1, kinds=[NegativeKind.AUDIO_TEMPORAL])
    assert isinstance(alone, Absent)
    assert alone == Absent(NegativeKind.AUDIO_TEMPORAL, "", 0, alone.reason)
    assert set(alone.reason.split("; ")) == {"silent", "the recording has no other window"}


def test_a_short_or_still_clip_is_told_apart_from_a_negative() -> None:
    few = cut_of(num_frames=10)
    assert isinstance(draw_stall(few, None, random()), NotApplicable)
    assert {each.op for each in made(few, donor_of()) if each.kind is NegativeKind.VIDEO_TEMPORAL} == {CyclicShift.name}
    still = replace(CUT.clip, frames=np.repeat(CUT.frames[:1], 30, axis=0))
    (absent,) = negatives(replace(CUT, clip=still), DONOR, seed=1, kinds=[NegativeKind.VIDEO_TEMPORAL])
    assert isinstance(absent, Absent) and absent.reason == "changes nothing in this clip"


def test_clips_that_were_not_read_from_a_file_have_one_channel() -> None:
    plain = replace(CUT, clip=replace(CUT.clip, channels=None), sound=CUT.sound.mean(axis=0, keepdims=True))
    for each in negatives(plain, DONOR, seed=1):
        assert isinstance(each, Negative) and each.clip.channels is None and sound_of(each.clip).shape == (NUM,)


def test_delays_are_not_drawn() -> None:
    with pytest.raises(ValueError, match="delayed_negatives"):
        draws_of_kind(NegativeKind.DESYNC)
