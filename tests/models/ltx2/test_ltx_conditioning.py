"""Known audio, video or first frame: they come out unchanged, have time 0, and reach the transformer as its own programs pass them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_ltx import AUDIO, VIDEO, tiny_transformer
from torch import Tensor

from avpref.models.conditioning import Conditioning, LatentTimes, audio_to_video, extend, image_to_av, video_to_audio
from avpref.models.flow import Latents, LatentShapes
from avpref.models.ltx2.ltx_components import video_text_dim
from avpref.models.ltx2.ltx_guidance import GuidanceScales, LtxGuidance
from avpref.models.ltx2.ltx_network import LtxConvention, LtxNetwork
from avpref.models.ltx2.ltx_sampler import LtxSampler, noise_levels
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.models.sampling import draw_noise
from avpref.models.text import TextBatch

SHAPES = LatentShapes((128, 3, 2, 2), (8, 10, 16))
SCALES = GuidanceScales(2.0)
STEPS = 2


def make_network(version: LtxVersion = LtxVersion.V2_3) -> LtxNetwork:
    transformer = tiny_transformer(version)
    return LtxNetwork(transformer, video_text_dim(transformer.config), LtxConvention.of(version, "diffusers")).eval()


def text(rows: int, seed: int) -> TextBatch:
    generator = torch.Generator().manual_seed(seed)
    return TextBatch(torch.randn(rows, 8, VIDEO + AUDIO, generator=generator), torch.ones(rows, 8))


def known(seed: int = 7) -> Latents:
    return draw_noise(SHAPES, [seed, seed + 1])


def sampled(network: LtxNetwork, conditioning: Conditioning | None) -> Latents:
    sampler = LtxSampler(LtxGuidance(SCALES, SCALES, (0,)), noise_levels(STEPS, 12))
    return sampler.sample(network, draw_noise(SHAPES, [1, 2]), text(2, 3), text(1, 4), conditioning=conditioning)


@pytest.mark.parametrize("mode", ["image", "audio", "video", "start"])
def test_known_parts_come_out_unchanged_and_change_the_rest(mode: str) -> None:
    network, latents = make_network(), known()
    assert latents.video is not None and latents.audio is not None
    start = Latents(latents.video[:, :, :2], latents.audio[:, :, :4])
    conditioning = {
        "image": lambda: image_to_av(latents.video[:, :, :1], SHAPES),
        "audio": lambda: audio_to_video(latents.audio),
        "video": lambda: video_to_audio(latents.video),
        "start": lambda: extend(start, SHAPES),
    }[mode]()
    free, fixed = sampled(network, None), sampled(network, conditioning)
    for name, before, after, given in zip(("video", "audio"), free, fixed, latents, strict=True):
        assert before is not None and after is not None and given is not None
        frames = {"image": (1, 0), "audio": (0, 10), "video": (3, 0), "start": (2, 4)}[mode][name == "audio"]
        assert torch.equal(after[:, :, :frames], given[:, :, :frames])
        if frames < after.shape[2]:
            assert not torch.allclose(after[:, :, frames:], before[:, :, frames:])


def spied(network: LtxNetwork, calls: list[dict[str, Any]]) -> LtxNetwork:
    network.transformer.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return network


def test_a_modality_that_is_known_has_noise_level_zero() -> None:
    calls: list[dict[str, Any]] = []
    network, latents = spied(make_network(), calls), known()
    assert latents.audio is not None and latents.video is not None
    sampled(network, audio_to_video(latents.audio))
    assert len(calls) == STEPS * 3
    for call in calls:
        assert not call["audio_sigma"].any() and not call["audio_timestep"].any()
        assert torch.equal(call["sigma"], call["timestep"]) and call["sigma"].min() > 0
    calls.clear()
    sampled(network, image_to_av(latents.video[:, :, :1], SHAPES))
    for call in calls:
        timesteps = call["timestep"].unflatten(1, (3, 4))
        assert not timesteps[:, 0].any()
        assert torch.equal(timesteps[:, 1:].amax((1, 2)), call["sigma"])


def velocities(network: LtxNetwork, times: Tensor | LatentTimes) -> Latents:
    with torch.no_grad():
        velocity: Latents = network(known(), times, *text(2, 5))
    return velocity


def test_times_per_frame_equal_a_shared_time() -> None:
    network, t = make_network(), torch.tensor([0.25, 0.75])
    per_frame = LatentTimes(t[:, None].expand(-1, 3), t[:, None].expand(-1, 10))
    for shared, expanded in zip(velocities(network, t), velocities(network, per_frame), strict=True):
        assert torch.equal(shared, expanded)  # type: ignore[arg-type]


def test_independent_times_reach_their_modality() -> None:
    """With times of its own, each modality gets its timestep, and 2.3 modulates attention between them by the other one's level."""
    calls: list[dict[str, Any]] = []
    t, u = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.1])
    velocities(spied(make_network(), calls), LatentTimes(t[:, None].expand(-1, 3), u[:, None].expand(-1, 10)))
    (call,) = calls
    torch.testing.assert_close(call["timestep"], 1000 * t)
    torch.testing.assert_close(call["audio_timestep"], 1000 * u)
    torch.testing.assert_close(call["audio_sigma"], 1000 * u)
    assert call["use_cross_timestep"] is True
    calls.clear()


def test_times_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="times of audio latents"):
        velocities(make_network(), LatentTimes(torch.rand(2, 3), torch.rand(2, 9)))


def test_guidance_without_blocks_or_negative_text_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        LtxGuidance(SCALES, SCALES, ())
