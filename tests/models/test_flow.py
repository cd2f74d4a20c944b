"""Flow maths: the path, the timestep law and its shift."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avpref.models.flow import interpolate, logit_normal, shift_ratio, shift_timesteps, velocity_target


def test_path_runs_from_data_to_noise_at_constant_velocity() -> None:
    x0, x1 = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x = interpolate(x0, x1, t)
    assert torch.equal(x[0], x0[0]) and torch.equal(x[2], x1[2])
    slope = (interpolate(x0, x1, t + 1e-3) - x) / 1e-3
    torch.testing.assert_close(slope, velocity_target(x0, x1))


@given(st.floats(0, 1), st.floats(0.1, 50))
def test_shift_fixes_its_ends_and_is_undone_by_the_inverse(time: float, ratio: float) -> None:
    t = torch.tensor([0.0, time, 1.0], dtype=torch.float64)
    shifted = shift_timesteps(t, ratio)
    assert shifted[0] == 0 and shifted[2] == pytest.approx(1)
    torch.testing.assert_close(shift_timesteps(shifted, 1 / ratio), t)
    assert ratio < 1 or shifted[1] >= time - 1e-12


@pytest.mark.parametrize(
    ("size", "frames", "scale", "ratio"),
    [
        ((240, 426), 65, 1.0, 2.41872),
        ((240, 426), 65, 5.0, 12.09361),
        ((480, 854), 81, 1.0, 5.59235),
        ((480, 854), 81, 5.0, 27.96177),
        ((512, 512), 1, 1.0, 1.0),
    ],
)
def test_published_shift_ratios(size: tuple[int, int], frames: int, scale: float, ratio: float) -> None:
    assert shift_ratio(*size, frames, scale) == pytest.approx(ratio, rel=2e-6)


@pytest.mark.parametrize("frames", [2, 16])
def test_short_clips_need_a_fixed_shift(frames: int) -> None:
    with pytest.raises(ValueError, match=r"timesteps\.shift"):
        shift_ratio(48, 48, frames)


def test_logit_normal_follows_its_generator_alone() -> None:
    first, again = (logit_normal((4000,), torch.Generator().manual_seed(3), 0.5, 2.0) for _ in range(2))
    assert torch.equal(first, again)
    logits = torch.logit(first.double())
    assert logits.mean().item() == pytest.approx(0.5, abs=0.15) and logits.std().item() == pytest.approx(2.0, abs=0.1)
