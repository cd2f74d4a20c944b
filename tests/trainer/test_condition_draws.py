"""Conditions that SFT draws in every step: known latents, dropped conditions, texts that are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from avpref.models.conditioning import LatentTimes
from avpref.models.flow import Latents
from avpref.trainer.batches import ClipSet
from avpref.trainer.data.buckets import SampleIndex
from avpref.trainer.data.conditions import ConditionDraws
from avpref.trainer.noise import ClipSource, FlowBatch, NoiseConfig
from avpref.trainer.objectives import FlowObjective

INDICES = [SampleIndex(row, epoch) for epoch in range(30) for row in range(10)]
NOISE = NoiseConfig(seed=1, shift=1.0)


def batch_of(clips: ClipSet, draws: ConditionDraws, indices: Sequence[SampleIndex] = INDICES) -> FlowBatch:
    return ClipSource(clips, NOISE, draws=draws).batch(indices)


def test_known_latents_are_clean_and_have_time_zero(make_clips: Callable[..., ClipSet]) -> None:
    clips = make_clips()
    plain, masked = batch_of(clips, ConditionDraws()), batch_of(clips, ConditionDraws(seed=2, has_masks=True))
    assert plain.masks is None and masked.masks is not None and isinstance(masked.times, LatentTimes)
    clean = clips.clips(INDICES)
    tracks = zip(masked.noisy, plain.noisy, clean, masked.masks, masked.times, strict=True)
    for shown, noisy, known, mask, times in tracks:
        assert shown is not None and noisy is not None and known is not None and times is not None
        wide = mask.reshape(len(mask), 1, -1, *[1] * (shown.ndim - 3)).expand_as(shown)
        assert torch.equal(shown, torch.where(wide, noisy, known))
        assert torch.equal(times, torch.where(mask, masked.t[:, None].expand_as(mask), 0.0))
        assert 0 < (~mask).any(dim=1).sum() < 0.45 * len(mask)
    assert masked.target.video is not None and plain.target.video is not None
    assert torch.equal(masked.target.video, plain.target.video)


def test_draws_depend_on_clip_and_epoch_alone(make_clips: Callable[..., ClipSet]) -> None:
    draws = ConditionDraws(seed=2, has_masks=True, num_dropped=3, dropped_share=0.4)
    whole, part = batch_of(make_clips(), draws), batch_of(make_clips(), draws, INDICES[7:19])
    assert whole.masks is not None and part.masks is not None
    assert torch.equal(whole.masks.audio[7:19], part.masks.audio)
    assert whole.dropped is not None and part.dropped is not None
    assert torch.equal(whole.dropped[7:19], part.dropped)
    assert whole.dropped.float().mean(dim=0).tolist() == pytest.approx([0.4] * 3, abs=0.1)
    assert not torch.equal(whole.dropped[:, 0], whole.dropped[:, 1])


def test_texts_are_drawn_again_with_a_seed_for_each_clip_and_epoch(make_clips: Callable[..., ClipSet]) -> None:
    seen: list[int] = []

    def redraw(states: Tensor, seeds: Sequence[int]) -> Tensor:
        seen.extend(seeds)
        return states + 1

    batch = batch_of(make_clips(), ConditionDraws(seed=2, redraw=redraw))
    assert torch.equal(batch.text, batch_of(make_clips(), ConditionDraws()).text + 1)
    assert len(set(seen)) == len(INDICES)


class Half(torch.nn.Module):
    """A network whose velocity is half of the target at every latent, and which keeps what it was called with."""

    def __init__(self, target: Latents) -> None:
        super().__init__()
        self.target = target
        self.keywords: dict[str, Tensor] = {}

    def forward(self, latents: Latents, t: Tensor, text: Tensor, mask: Tensor, **keywords: Tensor) -> Latents:
        self.keywords = keywords
        return Latents(*(None if track is None else 0.5 * track for track in self.target))


def test_the_loss_counts_what_is_to_be_generated(make_clips: Callable[..., ClipSet]) -> None:
    """The mean squared error over unknown latents; 1 for a modality that is known as a whole, as released."""
    draws = ConditionDraws(seed=2, has_masks=True, num_dropped=2, dropped_share=0.5)
    batch = batch_of(make_clips(), draws)
    network = Half(batch.target)
    metrics = FlowObjective(network).compute(batch).metrics
    assert set(network.keywords) == {"dropped"} and batch.masks is not None
    for name, target, mask in zip(("flow_video", "flow_audio"), batch.target, batch.masks, strict=True):
        assert target is not None
        for row in range(len(mask)):
            known = (0.5 * target[row][:, mask[row]]).square()
            expected = known.mean().item() if mask[row].any() else 1.0
            assert metrics[name][row].item() == pytest.approx(expected, rel=1e-3)
    assert torch.equal(metrics["loss"], metrics["flow_video"] + metrics["flow_audio"])
