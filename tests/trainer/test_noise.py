"""Counter-based noise: independent of batch, order, rank and world size; shared within a pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_order import indices_of_step
from present import present

from avpref.errors import ConfigError
from avpref.models.flow import LatentShapes, interpolate, velocity_target
from avpref.trainer.batches import ClipSet, PairSet
from avpref.trainer.noise import (
    ClipSource,
    FlowBatch,
    NoiseConfig,
    PairSource,
    SampleIndex,
    draw_sample_noise,
    shard_for_rank,
)

NOISE = NoiseConfig(seed=5, shift=3.0, caption_dropout=0.3, desync_share=0.5)


def row(batch: FlowBatch, index: int) -> list[torch.Tensor]:
    latents = [*batch.noisy, *batch.target, batch.t, batch.text, batch.text_mask]
    return [tensor[index] for tensor in latents if tensor is not None]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@given(st.integers(0, 99), st.integers(1, 17), st.integers(1, 5), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_ranks_split_a_batch(seed: int, batch_size: int, world: int, step: int) -> None:
    indices = indices_of_step(seed, step, batch_size, 7)
    parts = [shard_for_rank(indices, rank, world) for rank in range(world)]
    assert [index for part in parts for index in part] == indices
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_every_epoch_takes_every_sample_once(seed: int, batch_size: int, num_samples: int) -> None:
    steps = 3 * num_samples
    indices = [index for step in range(steps) for index in indices_of_step(seed, step, batch_size, num_samples)]
    whole = indices[: len(indices) // num_samples * num_samples]
    assert set(Counter(whole).values()) == {1}
    assert Counter(index.row for index in whole) == dict.fromkeys(range(num_samples), len(whole) // num_samples)


def test_every_epoch_has_its_own_order() -> None:
    orders = {tuple(index.row for index in indices_of_step(1, epoch, 20, 20)) for epoch in range(4)}
    assert len(orders) == 4


@given(st.permutations(range(10)), st.integers(1, 10), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_row_depends_only_on_its_sample_index(order: list[int], size: int, epoch: int) -> None:
    source = ClipSource(clips(), NOISE)
    indices = [SampleIndex(row_index, epoch) for row_index in order[:size]]
    batch = source.batch(indices)
    for position, index in enumerate(indices):
        assert equal(row(batch, position), row(source.batch([index]), 0))


def clips() -> ClipSet:
    draw = torch.Generator().manual_seed(1)
    return ClipSet(
        tuple(f"clip{index}" for index in range(10)),
        text=torch.randn(2, 3, 8, generator=draw),
        text_mask=torch.ones(2, 3),
        text_index=torch.arange(10) % 2,
        video=torch.randn(10, 2, 3, 4, 4, generator=draw),
        audio=torch.randn(10, 1, 6, 4, generator=draw),
        negative_text=torch.zeros(1, 3, 8),
        negative_mask=torch.zeros(1, 3),
    )


def test_noise_depends_on_the_id_and_not_on_the_row() -> None:
    data = clips()
    turned = replace(
        data,
        ids=data.ids[::-1],
        video=None if data.video is None else data.video.flip(0),
        audio=None if data.audio is None else data.audio.flip(0),
        text_index=data.text_index.flip(0),
    )
    first, second = (
        ClipSource(data, NOISE).batch([SampleIndex(2, 1)]),
        ClipSource(turned, NOISE).batch([SampleIndex(7, 1)]),
    )
    assert equal(row(first, 0), row(second, 0))


def test_noise_differs_between_seeds_ids_and_epochs() -> None:
    shapes = LatentShapes((1, 1, 4, 4), (1, 4, 4))
    times = {
        float(draw_sample_noise(replace(NOISE, seed=s), i, k, shapes).t)
        for s in range(4)
        for i in "abcd"
        for k in range(4)
    }
    assert len(times) == 64


def test_clip_batch_is_the_flow_of_its_data() -> None:
    source, data = ClipSource(clips(), replace(NOISE, caption_dropout=0.0)), clips()
    batch = source.batch([SampleIndex(3, 0), SampleIndex(0, 2)])
    assert data.video is not None and batch.target.video is not None and batch.noisy.video is not None
    x0 = data.video[[3, 0]]
    x1 = batch.target.video + x0
    torch.testing.assert_close(batch.noisy.video, interpolate(x0, x1, batch.t))
    torch.testing.assert_close(batch.target.video, velocity_target(x0, x1))
    assert torch.equal(batch.text, data.text[[1, 0]])


def test_chosen_and_rejected_share_noise_timestep_and_caption(make_pairs: Callable[..., PairSet]) -> None:
    pairs = make_pairs(40)
    source = PairSource(pairs, replace(NOISE, desync_share=0.0))
    batch = source.batch([SampleIndex(index, 0) for index in range(40)])
    assert pairs.chosen_video is not None and pairs.rejected_video is not None and batch.target.video is not None
    for tensor in (batch.t, batch.text, batch.text_mask):
        chosen, rejected = tensor.chunk(2)
        assert torch.equal(chosen, rejected)
    noise = batch.target.video + torch.cat([pairs.chosen_video, pairs.rejected_video])
    chosen, rejected = noise.chunk(2)
    torch.testing.assert_close(chosen, rejected)
    dropped = torch.eq(batch.text, present(pairs.negative_text)).flatten(1).all(1)
    assert 0 < int(dropped[:40].sum()) < 40


def test_rule_made_rejected_clips_are_the_chosen_one_with_delayed_audio(make_pairs: Callable[..., PairSet]) -> None:
    pairs = make_pairs(200, num_delays=3)
    assert pairs.desync_audio is not None and pairs.chosen_audio is not None and pairs.rejected_audio is not None
    batch = PairSource(pairs, NOISE).batch([SampleIndex(index, 0) for index in range(200)])
    assert batch.target.video is not None and batch.target.audio is not None
    video, audio = batch.target.video.chunk(2), batch.target.audio.chunk(2)
    seen: Counter[object] = Counter()
    for index in range(200):
        noise = audio[0][index] + pairs.chosen_audio[index]
        rejected = noise - audio[1][index]
        candidates = [*pairs.desync_audio[index], pairs.rejected_audio[index]]
        which = min(range(4), key=lambda k: float((rejected - candidates[k]).abs().max()))
        torch.testing.assert_close(rejected, candidates[which], atol=1e-5, rtol=1e-5)
        assert torch.equal(video[0][index], video[1][index]) == (which < 3)
        seen[which] += 1
    assert 70 < seen[3] < 130
    assert min(seen[delay] for delay in range(3)) > 10


def test_dropout_and_desync_shares_do_not_change_timestep_and_noise(make_pairs: Callable[..., PairSet]) -> None:
    pairs = make_pairs(6, num_delays=2)
    indices = [SampleIndex(index, 0) for index in range(6)]
    plain = PairSource(pairs, NoiseConfig(seed=5, shift=3.0)).batch(indices)
    changed = PairSource(pairs, NOISE).batch(indices)
    assert torch.equal(plain.t, changed.t)
    assert plain.target.video is not None and changed.target.video is not None
    assert torch.equal(plain.target.video[:6], changed.target.video[:6])


def test_noise_settings_that_the_data_cannot_serve_are_refused(
    make_pairs: Callable[..., PairSet], make_clips: Callable[..., ClipSet]
) -> None:
    with pytest.raises(ConfigError, match="desync_share"):
        PairSource(make_pairs(4), NOISE)
    with pytest.raises(ConfigError, match="caption_dropout"):
        ClipSource(replace(make_clips(4), negative_text=None, negative_mask=None), NOISE)
