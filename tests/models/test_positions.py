"""TA-RoPE: positions of every scheme, and the rotation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avpref.models.positions import (
    AudioPositions,
    TokenGrid,
    _turn_complex,
    _turn_real,
    audio_positions,
    rotary_angles,
    rotary_table,
    rotate,
    video_positions,
)

CPU = torch.device("cpu")
grids = st.builds(TokenGrid, *(st.integers(1, top) for top in (9, 5, 5, 30, 5)))


def frame_ids(scheme: AudioPositions, frames: int, steps: int) -> list[int]:
    return audio_positions(TokenGrid(frames, 2, 2, steps, 1), scheme)[:, 0].int().tolist()


def test_published_frame_ids_of_the_code() -> None:
    ids = frame_ids(AudioPositions.INTERLEAVE_OFFSET, 17, 51)
    assert ids[:10] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and ids[-4:] == [16] * 4 and ids[-5] == 15
    ids = frame_ids(AudioPositions.INTERLEAVE_OFFSET, 21, 64)
    assert ids[:10] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and ids[-4:] == [20] * 4
    assert frame_ids(AudioPositions.INTERLEAVE_OFFSET, 9, 26)[-4:] == [8] * 4


def test_published_frame_ids_of_the_formula() -> None:
    ids = frame_ids(AudioPositions.INTERLEAVE_OFFSET_ROUNDED, 17, 52)
    assert ids[:10] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3] and ids[-4:] == [16, 16, 16, 17]


@pytest.mark.parametrize(
    ("frames", "steps", "count"), [(17, 51, 9), (17, 52, 10), (21, 64, 12), (9, 26, 6), (13, 39, 7)]
)
def test_code_and_formula_differ_in_as_many_ids_as_published(frames: int, steps: int, count: int) -> None:
    code = frame_ids(AudioPositions.INTERLEAVE_OFFSET, frames, steps)
    formula = frame_ids(AudioPositions.INTERLEAVE_OFFSET_ROUNDED, frames, steps)
    assert sum(a != b for a, b in zip(code, formula, strict=True)) == count


@pytest.mark.parametrize(
    ("scheme", "last"),
    [
        (AudioPositions.VANILLA, (6.0, 6.0, 1.0)),
        (AudioPositions.INTERPOLATE, (2.0, 2.0, 1.0)),
        (AudioPositions.INTERLEAVE, (2.0, 6.0, 1.0)),
        (AudioPositions.INTERLEAVE_OFFSET, (2.0, 10.0, 6.0)),
        (AudioPositions.INTERLEAVE_OFFSET_ROUNDED, (3.0, 10.0, 6.0)),
    ],
)
def test_last_audio_token_of_every_scheme(scheme: AudioPositions, last: tuple[float, float, float]) -> None:
    grid = TokenGrid(video_frames=3, video_rows=4, video_columns=5, audio_steps=7, audio_rows=2)
    assert audio_positions(grid, scheme)[-1].tolist() == list(last)


@given(grids, st.sampled_from(list(AudioPositions)))
def test_positions_follow_token_order(grid: TokenGrid, scheme: AudioPositions) -> None:
    video, audio = video_positions(grid), audio_positions(grid, scheme)
    assert video.shape == (grid.num_video, 3) and audio.shape == (grid.num_audio, 3)
    assert video[-1].tolist() == [grid.video_frames - 1, grid.video_rows - 1, grid.video_columns - 1]
    assert (audio.view(grid.audio_steps, grid.audio_rows, 3)[:, :, :2].diff(dim=0) >= 0).all()


@given(grids)
def test_offset_keeps_audio_and_video_positions_apart(grid: TokenGrid) -> None:
    audio = audio_positions(grid, AudioPositions.INTERLEAVE_OFFSET)
    assert not set(map(tuple, video_positions(grid).tolist())) & set(map(tuple, audio.tolist()))


def test_without_video_the_offset_is_zero() -> None:
    grid = TokenGrid(9, 0, 0, 26, 2)
    expected = audio_positions(TokenGrid(9, 3, 3, 26, 2), AudioPositions.INTERLEAVE)
    assert torch.equal(audio_positions(grid, AudioPositions.INTERLEAVE_OFFSET), expected)
    assert video_positions(grid).shape == (0, 3)


def test_bands_of_a_full_size_head_are_44_42_42() -> None:
    angles = rotary_angles(torch.eye(3, dtype=torch.float64), 128)
    assert [int((row != 0).sum()) for row in angles] == [22, 21, 21]
    torch.testing.assert_close(angles[0, 1].item(), 10000 ** (-2 / 44))


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 12, generator=generator)

    def turned(x: torch.Tensor, position: list[float]) -> torch.Tensor:
        angles = rotary_angles(torch.tensor([position], dtype=torch.float64), 12).unsqueeze(1)
        return rotate(x, torch.stack([angles.cos(), angles.sin()], dim=-1).float())

    torch.testing.assert_close(turned(q, [3, 1, 2]).norm(), q.norm())
    near = (turned(q, [3, 1, 2]) * turned(k, [1, 1, 0])).sum()
    far = (turned(q, [7.5, 4, 9]) * turned(k, [5.5, 4, 7])).sum()
    torch.testing.assert_close(near, far)


def test_real_and_complex_rotations_agree() -> None:
    table = rotary_table(TokenGrid(2, 2, 2, 4, 2), AudioPositions.INTERPOLATE, 12, CPU)
    pairs = torch.randn(3, 16, 2, 6, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(_turn_complex(pairs, table), _turn_real(pairs, table))


def test_table_is_built_once_and_usable_in_training_after_sampling() -> None:
    grid = TokenGrid(2, 3, 4, 5, 2)
    with torch.inference_mode():
        table = rotary_table(grid, AudioPositions.INTERLEAVE_OFFSET, 12, CPU)
    assert not table.is_inference()
    assert rotary_table(TokenGrid(2, 3, 4, 5, 2), AudioPositions.INTERLEAVE_OFFSET, 12, CPU) is table
    assert rotary_table(grid, AudioPositions.INTERLEAVE, 12, CPU) is not table
