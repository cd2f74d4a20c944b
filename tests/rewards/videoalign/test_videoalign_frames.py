"""Sampling, sizes and patches of VideoAlign."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avpref.rewards.videoalign.videoalign_frames import (
    MEAN,
    STD,
    FrameRules,
    frame_indices,
    num_tokens,
    patch_grid,
    patches,
    resized_size,
    sample_frames,
)

RULES = FrameRules()


@given(st.integers(2, 5000), st.floats(0.5, 240))
def test_indices_are_even_in_number_increasing_and_include_both_ends(num_frames: int, fps_hz: float) -> None:
    found = frame_indices(num_frames, fps_hz, RULES)
    assert len(found) % 2 == 0 and 2 <= len(found) <= min(RULES.max_frames, num_frames)
    assert found[0] == 0 and found[-1] == num_frames - 1
    assert all(first < second for first, second in pairwise(found))


@given(st.integers(1, 4320), st.integers(1, 7680))
def test_sizes_are_multiples_within_the_limits(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="200-fold"):
            resized_size(height, width, RULES)
        return
    found = resized_size(height, width, RULES)
    assert all(side % 28 == 0 and side >= 28 for side in found)
    assert found[0] * found[1] <= RULES.max_pixels
    assert resized_size(width, height, RULES) == (found[1], found[0])


@pytest.mark.parametrize(("num_frames", "fps_hz"), [(0, 25.0), (1, 25.0), (10, 0.0), (10, float("nan"))])
def test_too_few_frames_or_no_rate_are_refused(num_frames: int, fps_hz: float) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        frame_indices(num_frames, fps_hz, RULES)


@pytest.mark.parametrize(("height", "width"), [(37, 41), (720, 1280), (101, 33)])
def test_odd_small_and_large_pictures(height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, height, width, 3), np.uint8)
    frames.setflags(write=False)
    found = sample_frames(frames, 25.0, RULES)
    assert found.dtype == torch.uint8 and tuple(found.shape) == (4, *resized_size(height, width, RULES), 3)


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 336, 336, 3), np.uint8)
    np.testing.assert_array_equal(sample_frames(frames, 25.0, RULES).numpy(), frames)


def test_where_each_value_of_a_patch_comes_from() -> None:
    frames = torch.randint(0, 256, (4, 56, 84, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, (pairs, rows, columns) = patches(frames), patch_grid(frames)
    assert found.shape == (pairs * rows * columns, 1176) and num_tokens(frames) * 4 == len(found)
    values = (frames.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    order = [
        (pair, 2 * block_y + y, 2 * block_x + x)
        for pair in range(pairs)
        for block_y in range(rows // 2)
        for block_x in range(columns // 2)
        for y in range(2)
        for x in range(2)
    ]
    for row, (pair, y, x) in zip(found, order, strict=True):
        cut = values[2 * pair : 2 * pair + 2, 14 * y : 14 * y + 14, 14 * x : 14 * x + 14]
        torch.testing.assert_close(row, cut.permute(3, 0, 1, 2).flatten().float(), rtol=0, atol=1e-6)
