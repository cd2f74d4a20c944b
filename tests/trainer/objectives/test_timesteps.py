"""Timesteps: of the audio alone, rounded as in the release, and the curriculum of rule-made rejected clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from avpref.config.training_settings import AdapterSettings, PreferenceLossSettings
from avpref.models.conditioning import LatentTimes
from avpref.models.dit import JavisDiT
from avpref.models.flow import LatentShapes
from avpref.trainer.adapters import factors, make_policy, reference
from avpref.trainer.batches import ClipSet, PairSet
from avpref.trainer.noise import ClipSource, NoiseConfig, PairSource, SampleIndex, draw_sample_noise
from avpref.trainer.objectives import LiveReference, PreferenceObjective, loss_weights

NOISE = NoiseConfig(seed=5, shift=2.0, caption_dropout=0.2, desync_share=0.5)
INDICES = [SampleIndex(row, epoch) for row in range(5) for epoch in range(2)]
MakePairs = Callable[..., PairSet]


def test_an_own_timestep_of_the_audio_changes_no_other_draw(make_pairs: MakePairs) -> None:
    pairs = make_pairs(num_delays=3)
    shared = PairSource(pairs, NOISE).batch(INDICES)
    own = PairSource(pairs, replace(NOISE, independent=True)).batch(INDICES)
    assert shared.t_audio is None and own.t_audio is not None
    assert torch.equal(shared.t, own.t) and torch.equal(shared.text, own.text)
    assert own.noisy.video is not None and shared.noisy.video is not None
    assert torch.equal(own.noisy.video, shared.noisy.video)
    assert not torch.equal(own.t_audio, own.t) and torch.equal(*own.t_audio.chunk(2))
    assert own.noisy.audio is not None and own.target.audio is not None and shared.target.audio is not None
    assert torch.equal(own.target.audio, shared.target.audio), "equal data and noise"
    x0 = own.noisy.audio - own.t_audio.view(-1, 1, 1, 1) * own.target.audio  # x_t = x0 + t v
    plain = (
        shared.noisy.audio - shared.t.view(-1, 1, 1, 1) * shared.target.audio if shared.noisy.audio is not None else x0
    )
    torch.testing.assert_close(x0, plain, rtol=1e-4, atol=1e-5)
    assert isinstance(own.times, LatentTimes) and own.times.video is not None and own.times.audio is not None
    assert own.times.video.shape == (20, 3) and own.times.audio.shape == (20, 6)


def test_shared_timesteps_per_frame_give_the_prediction_of_one_timestep(
    make_network: Callable[..., JavisDiT], make_clips: Callable[..., ClipSet]
) -> None:
    network, clips = make_network(), ClipSource(make_clips(), replace(NOISE, desync_share=0.0))
    batch = clips.batch([SampleIndex(0, 0), SampleIndex(1, 0)])
    per_frame = batch._replace(t_audio=batch.t)
    for one, other in zip(
        network(batch.noisy, batch.times, batch.text, batch.text_mask),
        network(per_frame.noisy, per_frame.times, per_frame.text, per_frame.text_mask),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_rounded_timesteps_are_those_of_the_release(make_pairs: MakePairs) -> None:
    """997 becomes 996 and 999 becomes 1000 in bfloat16; x_t keeps the exact timestep."""
    exact = PairSource(make_pairs(num_delays=1), NOISE).batch(INDICES)
    rounded = PairSource(make_pairs(num_delays=1), replace(NOISE, rounded=True)).batch(INDICES)
    assert torch.equal(exact.t, rounded.t)
    assert exact.noisy.video is not None and rounded.noisy.video is not None
    assert torch.equal(exact.noisy.video, rounded.noisy.video)
    shown = rounded._replace(t=torch.tensor([0.997, 0.999, 0.25])).times
    assert isinstance(shown, torch.Tensor)
    assert [round(value * 1000, 3) for value in shown.tolist()] == [996.0, 1000.0, 250.0]


def test_weights_of_audio_follow_its_own_timestep(make_pairs: MakePairs) -> None:
    batch = PairSource(make_pairs(num_delays=1), replace(NOISE, independent=True)).batch(INDICES)
    settings = PreferenceLossSettings(noise_weights=(1.0, 3.0), weight_audio=2.0)
    weights = loss_weights(batch, settings)
    assert weights is not None and weights.video is not None and weights.audio is not None and batch.t_audio is not None
    assert weights.video.tolist() == [3.0 if t >= 0.5 else 1.0 for t in batch.t[:10].tolist()]
    assert weights.audio.tolist() == [6.0 if t >= 0.5 else 2.0 for t in batch.t_audio[:10].tolist()]
    assert loss_weights(batch, PreferenceLossSettings()) is None


@pytest.mark.parametrize("num_versions", [1, 4, 6])
def test_the_curriculum_grows_to_all_versions(num_versions: int) -> None:
    growing = replace(NOISE, desync_share=1.0, desync_epochs=5)
    counts = [growing.num_drawn(num_versions, epoch) for epoch in range(8)]
    assert counts == sorted(counts) and counts[0] == -(-num_versions // 5) and counts[4:] == [num_versions] * 4
    shapes = LatentShapes(None, (1, 2, 2))
    for epoch in range(6):
        drawn = {draw_sample_noise(growing, f"pair{i}", epoch, shapes, num_versions).desync for i in range(200)}
        assert drawn == set(range(growing.num_drawn(num_versions, epoch)))
    assert NOISE.num_drawn(num_versions, 0) == num_versions


def test_the_reference_predicts_the_same_after_ten_steps(
    make_network: Callable[..., JavisDiT], make_pairs: MakePairs
) -> None:
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), seed=1)
    batch = PairSource(make_pairs(num_delays=1), NOISE).batch(INDICES[:4])
    objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))
    parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)

    def predicted() -> list[torch.Tensor]:
        with reference(policy) as model:
            return [part.clone() for part in model(batch.noisy, batch.times, batch.text, batch.text_mask)]

    before = predicted()
    for _ in range(10):
        objective.compute(batch).backward(1.0)
        optimiser.step()
        optimiser.zero_grad()
    assert all(torch.equal(*pair) for pair in zip(before, predicted(), strict=True))
    assert all(factors(layer, "policy")[1].abs().sum() > 0 for layer in policy.layers), "audio feed-forward too"
