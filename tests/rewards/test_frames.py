"""Frames at another rate, and squares cut from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from avpref.rewards.frames import indices_at_rate, square_frames


def shown_by_rounding(num_frames: int, rate: tuple[int, int], to_hz: int) -> list[int]:
    """Slot by slot: the last frame that begins at or before it."""
    up, down = rate
    begins = [(2 * i * to_hz * down + up) // (2 * up) for i in range(num_frames + 1)]
    return [max(i for i in range(num_frames) if begins[i] <= slot) for slot in range(begins[-1])]


@given(
    st.integers(1, 70),
    st.sampled_from([(8, 1), (15, 1), (16, 1), (24, 1), (24000, 1001), (25, 1), (30000, 1001), (50, 1), (60000, 1001)]),
    st.sampled_from([8, 16, 25]),
)
def test_a_slot_shows_the_last_frame_that_has_begun(num_frames: int, rate: tuple[int, int], to_hz: int) -> None:
    found = indices_at_rate(num_frames, rate[0] / rate[1], float(to_hz))
    assert found.tolist() == shown_by_rounding(num_frames, rate, to_hz)


def test_the_same_rate_shows_every_frame_once() -> None:
    assert indices_at_rate(40, 25.0, 25.0).tolist() == list(range(40))


def test_halves_are_rounded_up_at_twice_the_rate() -> None:
    assert indices_at_rate(6, 50.0, 25.0).tolist() == [0, 2, 4]


def test_fractional_rates_are_exact_at_a_tie() -> None:
    """Frame 600 of 30000/1001 Hz begins exactly half a slot after slot 500."""
    found = indices_at_rate(602, 30000 / 1001, 25.0)
    assert found[500] == 599 and found[501] == 601 and len(found) == 502


@pytest.mark.parametrize(("num_frames", "fps_hz"), [(0, 25.0), (5, 0.0), (5, float("nan"))])
def test_senseless_films_are_refused(num_frames: int, fps_hz: float) -> None:
    with pytest.raises(ValueError, match="positive rates"):
        indices_at_rate(num_frames, fps_hz, 25.0)


@pytest.mark.parametrize("size", [(32, 32), (31, 47), (97, 40), (224, 225), (7, 5), (480, 832), (2160, 3840)])
def test_squares_of_any_size(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    found = square_frames(frames, np.array([1, 0, 0]), 32)
    assert found.shape == (3, 32, 32, 3) and found.dtype == torch.uint8
    assert torch.equal(found[1], found[2]) and not torch.equal(found[0], found[1])


def test_the_middle_of_a_resized_frame_is_cut_out() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (1, 60, 101, 3), np.uint8)
    planes = torch.from_numpy(frame).permute(0, 3, 1, 2)
    wide = functional.interpolate(planes, (40, 67), mode="bicubic", antialias=True)
    expected = wide[0, :, :, 14:54].permute(1, 2, 0)
    assert torch.equal(square_frames(frame, np.array([0]), 40)[0], expected)


def test_a_frame_of_the_wanted_size_is_left_alone() -> None:
    frame = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), np.uint8)
    assert np.array_equal(square_frames(frame, np.array([0]), 32).numpy(), frame)


def test_turned_and_locked_frames_are_read_and_not_changed() -> None:
    frames = np.rot90(np.random.default_rng(3).integers(0, 256, (3, 20, 30, 3), np.uint8), axes=(1, 2))
    frames.setflags(write=False)
    before = frames.copy()
    assert torch.equal(
        square_frames(frames, np.arange(3), 16), square_frames(np.ascontiguousarray(before), np.arange(3), 16)
    )
    assert np.array_equal(frames, before)
