"""The published sizes, and what they become."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.media.resolutions import (
    NUM_FRAMES,
    RESOLUTIONS,
    effective_size,
    latent_frames,
    nearest_lengths,
    nearest_sides,
    nominal_size,
)

PUBLISHED = {
    (240, 426): ((240, 432), 405),
    (320, 320): ((320, 320), 400),
    (360, 640): ((368, 640), 920),
    (480, 854): ((480, 864), 1620),
    (554, 738): ((560, 752), 1645),
    (640, 640): ((640, 640), 1600),
}


def test_the_published_table() -> None:
    rows = {(row.height_px, row.width_px): (row.effective, row.tokens_per_frame) for row in RESOLUTIONS}
    assert rows == PUBLISHED
    for row in RESOLUTIONS:
        assert f"{row.height_px / row.width_px:.2f}" == row.aspect
        assert nominal_size(*row.effective) == (row.height_px, row.width_px)
    assert nominal_size(256, 256) == (256, 256)
    tokens = [RESOLUTIONS[3].tokens_per_frame * latent_frames(length) for length in NUM_FRAMES]
    assert tokens == [14580, 21060, 27540, 34020]


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_effective_sizes_are_the_next_whole_cells(height: int, width: int) -> None:
    actual = effective_size(height, width)
    assert all(
        side % 16 == 0 and 0 <= side - nominal < 16 for side, nominal in zip(actual, (height, width), strict=True)
    )
    assert effective_size(*actual) == actual
    assert actual == tuple(8 * 2 * math.ceil(side / 8 / 2) for side in (height, width))  # the original's rule
    assert nearest_sides(height)[-1] == actual[0]


@given(st.integers(1, 500))
def test_lengths(num_frames: int) -> None:
    near = nearest_lengths(num_frames)
    assert all(abs(length - num_frames) < 4 and (length - 1) % 4 == 0 for length in near)
    assert (num_frames in near) == ((num_frames - 1) % 4 == 0)
    if num_frames in near:
        assert near == (num_frames,) and latent_frames(num_frames) == (num_frames - 1) // 4 + 1
    else:
        assert near[0] < num_frames < near[1]
        with pytest.raises(ValueError, match="4k \\+ 1"):
            latent_frames(num_frames)


def test_small_sides_have_one_neighbour() -> None:
    assert nearest_sides(7) == (16,)
    assert nearest_sides(426) == (416, 432)
    assert nearest_sides(432) == (432,)
