"""The Euler sampler, on networks whose flow is known and on the real one."""

from __future__ import annotations

import pytest
import torch
from present import present

from avpref.models.dit import ModelType
from avpref.models.flow import Latents, LatentShapes
from avpref.models.sampling import SamplerSettings, draw_noise, sample, timetable
from avpref.models.text import TextBatch

SHAPES = LatentShapes((3, 3, 4, 6), (2, 8, 4))


class StraightFlow:
    """A network that knows the data: velocity x1 - x0 towards the target that the text's first number picks."""

    def __init__(self, noise: Latents) -> None:
        self.noise = [present(part) for part in noise]
        self.rows: list[int] = []
        self.times: list[float] = []

    def __call__(self, latents, t, text, mask, *, num_video_latents=None) -> Latents:
        self.rows.append(len(t))
        self.times.append(t[0].item())
        target = text[:, 0, 0]
        copies = len(t) // len(self.noise[1])
        return Latents(
            *(x1.repeat(copies, *[1] * (x1.ndim - 1)) - target.view(-1, *[1] * (x1.ndim - 1)) for x1 in self.noise)
        )


def texts(value: float, rows: int = 2) -> TextBatch:
    return TextBatch(torch.full((rows, 6, 10), value), torch.ones(rows, 6))


def test_schedule_of_the_released_sampler() -> None:
    """240 x 426, 65 frames; the release rounds its shift ratio to bfloat16, so 2.4219 instead of 2.4187."""
    t = timetable(50, 2.421875) * 1000
    assert len(t) == 51 and t[0] == 1000 and t[-1] == 0 and (t.diff() < 0).all()
    assert [round(value, 1) for value in t[:6].tolist()] == [1000, 991.6, 983.1, 974.3, 965.3, 956.1]
    assert [round(value, 1) for value in t[-5:-1].tolist()] == [174.0, 133.9, 91.7, 47.1]


@pytest.mark.parametrize("steps", [1, 7])
def test_a_straight_flow_is_integrated_exactly(steps: int) -> None:
    noise = draw_noise(SHAPES, [1, 2])
    actual = sample(StraightFlow(noise), noise, texts(0.5), None, SamplerSettings(steps, 5.0, 3.0))
    for part in map(present, actual):
        torch.testing.assert_close(part, torch.full_like(part, 0.5), rtol=0, atol=1e-5)


def test_guidance_points_away_from_the_negative_text() -> None:
    noise = draw_noise(SHAPES, [1, 2])
    network = StraightFlow(noise)
    actual = sample(network, noise, texts(0.5), texts(0.1, rows=1), SamplerSettings(4, 5.0, 1.0))
    assert network.rows == [4] * 4
    for part in map(present, actual):
        torch.testing.assert_close(part, torch.full_like(part, 0.1 + 5 * (0.5 - 0.1)), rtol=0, atol=1e-5)


def test_guidance_of_one_costs_one_row_per_candidate() -> None:
    noise = draw_noise(SHAPES, [1, 2])
    network, seen = StraightFlow(noise), []
    sample(
        network,
        noise,
        texts(0.5),
        texts(0.1),
        SamplerSettings(3, 1.0, 2.0),
        lambda done, steps: seen.append((done, steps)),
    )
    assert network.rows == [2] * 3 and seen == [(1, 3), (2, 3), (3, 3)]
    assert network.times == timetable(3, 2.0)[:3].tolist()


def test_noise_of_a_row_depends_on_its_seed_alone() -> None:
    together, alone = draw_noise(SHAPES, [7, 8, 9]), draw_noise(SHAPES, [8])
    for whole, single in zip(together, alone, strict=True):
        assert torch.equal(present(whole)[1:2], present(single))
    generator = torch.Generator().manual_seed(8)
    assert torch.equal(present(alone.video)[0], torch.empty(present(SHAPES.video)).normal_(generator=generator))
    assert torch.equal(present(alone.audio)[0], torch.empty(present(SHAPES.audio)).normal_(generator=generator))
    assert draw_noise(LatentShapes(None, (2, 8, 4)), [8]).video is None


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_noise(SHAPES, [1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("model_type", list(ModelType))
def test_every_build_can_be_sampled(make_network, model_type: ModelType) -> None:
    network = make_network(model_type)
    shapes = LatentShapes(
        SHAPES.video if model_type.has_video else None, SHAPES.audio if model_type.has_audio else None
    )
    noise, untouched = draw_noise(shapes, [1, 2]), draw_noise(shapes, [1, 2])
    frames = None if model_type.has_video else 3
    actual = sample(network, noise, texts(0.5), texts(0.0), SamplerSettings(2, 4.0, 2.0), num_video_latents=frames)
    for part, start, same in zip(actual, noise, untouched, strict=True):
        assert (part is None) == (start is None)
        if part is not None:
            assert start is not None and part.shape == start.shape and part.isfinite().all()
            assert torch.equal(start, present(same))
            assert not part.requires_grad


def test_a_candidate_does_not_depend_on_its_batch(make_network) -> None:
    network, settings = make_network(), SamplerSettings(3, 4.0, 2.0)
    together = sample(network, draw_noise(SHAPES, [4, 5, 6]), texts(0.5, 3), texts(0.0, 1), settings)
    alone = sample(network, draw_noise(SHAPES, [5]), texts(0.5, 1), texts(0.0, 1), settings)
    for whole, single in zip(together, alone, strict=True):
        torch.testing.assert_close(present(whole)[1:2], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", [(0, 1.0, 1.0), (5, -1.0, 1.0), (5, 1.0, 0.0)])
def test_settings_that_cannot_be_used_are_refused(values: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="sampling needs"):
        SamplerSettings(*values)
