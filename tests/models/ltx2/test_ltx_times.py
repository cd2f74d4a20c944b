"""The law of training timesteps, against an independent computation of its distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import norm

from avpref.models.flow import LatentShapes
from avpref.models.ltx2.ltx_sampler import noise_levels
from avpref.models.ltx2.ltx_times import token_shift
from avpref.models.stretched_times import draw_stretched_time, stretched_times
from avpref.trainer.noise import NoiseConfig, draw_sample_noise


def test_the_shift_is_linear_in_tokens_and_extrapolated() -> None:
    assert token_shift(1024) == pytest.approx(0.95) and token_shift(4096) == pytest.approx(2.05)
    assert token_shift(126) == pytest.approx(0.63, abs=5e-3) and token_shift(6144) == pytest.approx(2.78, abs=5e-3)


@pytest.mark.parametrize("num_tokens", [126, 6144])
def test_times_follow_the_stretched_law(num_tokens: int) -> None:
    """The distribution function of nine tenths of the draws, from that of the normal law; a tenth is uniform."""
    generator = torch.Generator().manual_seed(num_tokens)
    normal, uniform, choice = torch.randn(40000, generator=generator), *torch.rand(2, 40000, generator=generator)
    mu = token_shift(num_tokens)
    times = stretched_times(normal, uniform, choice, mu).double().numpy()
    assert times.min() >= 0 and times.max() <= 1
    low, high = expit(mu + norm.ppf(0.005)), expit(mu + norm.ppf(0.999))
    for bound in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        stretched = norm.cdf(logit(low + bound * (high - low)) - mu)
        expected = 0.9 * stretched + 0.1 * bound
        assert (times <= bound).mean() == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(len(times)))


def test_draws_depend_on_the_generator_alone() -> None:
    draws = [draw_stretched_time(torch.Generator().manual_seed(5), 1.5) for _ in range(2)]
    assert torch.equal(*draws) and draws[0].shape == ()


def test_noise_levels_fall_from_one_to_zero_with_the_published_last_step() -> None:
    for tokens in (18, 6144):
        levels = noise_levels(30, tokens)
        assert levels.shape == (31,) and levels[0] == 1 and levels[-1] == 0
        assert levels[-2] == pytest.approx(0.1, abs=1e-6)
        assert (levels.diff() < 0).all()
    assert noise_levels(30, 6144)[15] > noise_levels(30, 1024)[15]
    torch.testing.assert_close(
        noise_levels(10, 6144, scale=2.0), noise_levels(10, 1, shift=2.0 * np.exp(token_shift(6144)))
    )


def test_training_draws_follow_the_law_and_leave_noise_and_caption_as_they_are() -> None:
    shapes = LatentShapes((2, 1, 1, 1), (1, 2, 1))
    plain = NoiseConfig(seed=1, shift=3.0, caption_dropout=0.5, independent=True)
    stretched = replace(plain, audio_shift=0.5, stretched=True)
    ours, theirs = ([draw_sample_noise(c, f"s{i}", 0, shapes) for i in range(400)] for c in (stretched, plain))
    for own, other in zip(ours, theirs, strict=True):
        assert own.drops_caption == other.drops_caption
        assert torch.equal(own.noise.video, other.noise.video)  # type: ignore[arg-type]
    video, audio = (torch.stack([getattr(own, name) for own in ours]) for name in ("t", "t_audio"))
    assert abs(torch.corrcoef(torch.stack([video, audio]))[0, 1]) < 0.2
    assert video.median() > 0.65 > 0.5 > audio.median()
