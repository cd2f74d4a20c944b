"""Training from a latent store equals training from memory; buckets, budget and order depend on nothing but seed and shapes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_stores import FINGERPRINT, store_of_pairs, store_of_two_shapes

from avpref.config.network_settings import NetworkSettings
from avpref.errors import ConfigError, InputError
from avpref.models.dit_work import num_tokens
from avpref.models.flow import LatentShapes
from avpref.storage.latents.latent_reader import ClipSize
from avpref.storage.latents.training_set import training_set_hash
from avpref.trainer.batches import PairSet
from avpref.trainer.data.buckets import Bucket, Buckets, SampleIndex, Schedule, epoch_order
from avpref.trainer.data.job_data import noise_of_buckets, open_pairs, schedule_of
from avpref.trainer.data.memory_check import require_memory
from avpref.trainer.data.stored_data import StoredPairs, open_training_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.loop import trainable_parameters
from avpref.trainer.memory_plan import MemoryRequest, plan_memory
from avpref.trainer.noise import FlowBatch, NoiseConfig, PairSource, shard_for_rank
from avpref.trainer.objectives import LossAndMetrics, PreferenceObjective, joined
from avpref.trainer.parallel import Context
from avpref.trainer.run_job import prepare_preference_training, run_job

NOISE = NoiseConfig(seed=5, shift=3.0, caption_dropout=0.3, desync_share=0.5)


def tensors(batch: FlowBatch) -> list[torch.Tensor]:
    return [x for x in (*batch.noisy, *batch.target, batch.t, batch.text, batch.text_mask) if x is not None]


def same(first: FlowBatch, second: FlowBatch) -> bool:
    return all(torch.equal(a.float(), b.float()) for a, b in zip(tensors(first), tensors(second), strict=True))


@pytest.fixture
def pairs(make_pairs: Callable[..., PairSet]) -> PairSet:
    """States of padding are zero, as text encoders give them; the store keeps none."""
    pairs = make_pairs(10, num_delays=2)
    assert pairs.negative_text is not None and pairs.negative_mask is not None
    return replace(pairs, negative_text=pairs.negative_text * pairs.negative_mask[..., None])


def opened(path: Path, seed: int = 0) -> StoredPairs:
    return StoredPairs(open_training_set(path, "pairs", FINGERPRINT), seed)


def test_batches_of_a_store_equal_those_of_memory_bit_by_bit(tmp_path: Path, pairs: PairSet) -> None:
    stored, indices = opened(store_of_pairs(tmp_path, pairs)), [SampleIndex(row, row % 3) for row in range(10)]
    assert stored.ids == pairs.ids and stored.num_delays == 2
    assert same(PairSource(stored, NOISE).batch(indices), PairSource(pairs, NOISE).batch(indices))


def test_training_from_a_store_gives_the_same_adapter(
    tmp_path: Path, pairs: PairSet, dpo_job: Callable[..., TrainingJob]
) -> None:
    memory = dpo_job("memory")
    stored = replace(dpo_job("stored"), data=store_of_pairs(tmp_path / "store", pairs))
    for job in (memory, stored):
        run_job(job, Context())
    files = [job.output / "adapter" / "adapter_model.safetensors" for job in (memory, stored)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_sampled_posterior_depends_on_clip_epoch_and_seed_alone(tmp_path: Path, pairs: PairSet) -> None:
    path = store_of_pairs(tmp_path, pairs, log_variance=-2.0)
    assert pairs.chosen_audio is not None
    first, again, other = opened(path), opened(path), opened(path, seed=1)
    chosen = first.sides([SampleIndex(3, 1), SampleIndex(5, 0)])[0].audio
    alone = again.sides([SampleIndex(5, 0)])[0].audio
    assert chosen is not None and alone is not None
    assert torch.equal(chosen[1], alone[0])
    later, seeded = again.sides([SampleIndex(5, 1)])[0].audio, other.sides([SampleIndex(5, 0)])[0].audio
    assert later is not None and seeded is not None
    assert not torch.equal(later, alone) and not torch.equal(seeded, alone)
    sounds = [first.sides([SampleIndex(5, epoch)])[0].audio for epoch in range(400)]
    drawn = torch.stack([sound for sound in sounds if sound is not None])
    noise = (drawn[:, 0] - pairs.chosen_audio[5]) / torch.tensor(-1.0).exp()
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05


def test_latents_of_another_fingerprint_are_refused(tmp_path: Path, pairs: PairSet) -> None:
    path = store_of_pairs(tmp_path, pairs)
    with pytest.raises(InputError, match=f"fingerprint {FINGERPRINT}"):
        open_training_set(path, "pairs", "another")
    with pytest.raises(InputError, match="a set of pairs"):
        open_training_set(path, "clips", FINGERPRINT)


def test_a_changed_set_or_a_missing_shard_is_refused_before_the_first_step(tmp_path: Path, pairs: PairSet) -> None:
    path = store_of_pairs(tmp_path, pairs)
    shard = next(iter(tmp_path.glob("latents/*/*.safetensors")))
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        opened(path)
    shard.write_bytes(data)
    opened(path)
    table = next(iter(path.parent.glob("pairs-training_samples-*.parquet")))
    table.write_bytes(table.read_bytes() + b" ")
    with pytest.raises(InputError, match="sha-256"):
        opened(path)


def test_the_hash_of_a_set_does_not_depend_on_where_it_lies(tmp_path: Path, pairs: PairSet) -> None:
    paths = [store_of_pairs(tmp_path / name, pairs) for name in ("here", "there")]
    assert training_set_hash(paths[0]) == training_set_hash(paths[1])
    document = json.loads(paths[0].read_text())
    paths[0].write_text(json.dumps(document | {"fingerprint": "another"}))
    assert training_set_hash(paths[0]) != training_set_hash(paths[1])


SIZES = (ClipSize(3, 4, 4), ClipSize(5, 4, 4), ClipSize(3, 4, 8))
NETWORK = NetworkSettings(
    dim=24, ffn_dim=32, freq_dim=16, text_dim=8, text_len=3, num_heads=2, num_layers=2, in_dim=2, audio_in_dim=1
)


def tokens_of(shapes: LatentShapes) -> int:
    return num_tokens(shapes, NETWORK)


def mixed(of_row: list[int]) -> Buckets:
    kinds = tuple(
        Bucket(LatentShapes((2, size.num_frames, size.height_px, size.width_px), (1, 2 * size.num_frames, 4)), size)
        for size in SIZES
    )
    return Buckets(tuple(of_row), kinds, 2)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 9), st.integers(40, 200), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_passes_hold_one_bucket_and_no_more_than_the_budget(
    of_row: list[int], batch_size: int, max_tokens: int, seed: int
) -> None:
    buckets = mixed(of_row)
    tokens = buckets.tokens(tokens_of)
    if max(tokens) > max_tokens:
        with pytest.raises(ConfigError, match=r"3x4x8|5x4x4"):
            Schedule(buckets, tokens_of, max_tokens)
        return
    schedule = Schedule(buckets, tokens_of, max_tokens)
    steps = -(-3 * len(of_row) // batch_size)
    used: list[SampleIndex] = []
    for step in range(steps):
        indices = schedule.samples(seed, step, batch_size)
        assert len(indices) == batch_size
        passes = schedule.passes(indices)
        assert sorted(index for members in passes for index in members) == sorted(indices)
        for members in passes:
            (bucket,) = {of_row[index.row] for index in members}
            assert len(members) * tokens[bucket] <= max_tokens
        used += indices
    whole = Counter(index.row for index in used[: 3 * len(of_row)])
    assert set(whole.values()) == {3}


@given(st.integers(1, 30), st.integers(0, 9), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_one_bucket_keeps_the_plain_order(count: int, seed: int, epoch: int) -> None:
    buckets = Buckets((0,) * count, mixed([0]).kinds[:1], 2)
    assert Schedule(buckets, tokens_of, 100).order(seed, epoch) == epoch_order(seed, epoch, count)


def test_tokens_of_the_published_shapes() -> None:
    javis = NETWORK.model_copy(update={"patch_size": (1, 2, 2), "audio_patch_size": (2, 2)})
    assert num_tokens(LatentShapes((16, 17, 30, 54), (8, 102, 16)), javis) == 6885 + 408
    assert num_tokens(LatentShapes((16, 21, 60, 108), (8, 128, 16)), javis) == 34020 + 512


@pytest.fixture
def two_shapes(tmp_path: Path) -> Path:
    return store_of_two_shapes(tmp_path / "store")


@pytest.mark.parametrize("budget", [60, 80, 200])
@pytest.mark.parametrize("world", [1, 3])
def test_passes_and_ranks_add_up_to_the_gradient_of_single_pairs(
    two_shapes: Path, dpo_job: Callable[..., TrainingJob], budget: int, world: int
) -> None:
    job = replace(dpo_job("grads", dpo={"desync_share": 0.0}, max_tokens=budget), data=two_shapes)
    training = prepare_preference_training(job, Context())
    objective = PreferenceObjective(training.policy, job.dpo.loss, training.live)
    schedule, parameters = training.source.schedule, trainable_parameters(objective.module)
    indices = schedule.samples(7, 0, 8)
    by_rank = [schedule.passes(shard_for_rank(indices, rank, world)) for rank in range(world)]

    def gradient(passes: list[list[SampleIndex]]) -> tuple[torch.Tensor, LossAndMetrics]:
        objective.module.zero_grad()
        results = []
        for members in passes:
            results.append(objective.compute(training.source.batch(members)))
            results[-1].loss.backward()
        flat = torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None])
        return flat.clone(), joined(results)

    singles, single_result = gradient([[index] for index in indices])
    several, result = gradient([members for passes in by_rank for members in passes])
    assert float((several - singles).norm()) < 1e-5 * float(singles.norm())
    torch.testing.assert_close(result.loss, single_result.loss)
    for name, values in result.metrics.items():
        torch.testing.assert_close(values.mean(), single_result.metrics[name].mean(), atol=1e-5, rtol=1e-4)


def test_shapes_have_their_own_timestep_shift(two_shapes: Path, dpo_job: Callable[..., TrainingJob]) -> None:
    job = replace(dpo_job("shift", dpo={"timesteps": {"shift": None}, "desync_share": 0.0}), data=two_shapes)
    kinds = tuple(Bucket(LatentShapes(None, (1, 2, 4)), size) for size in (ClipSize(17, 32, 32), ClipSize(34, 64, 32)))
    small, large = noise_of_buckets(job, NOISE, Buckets((0, 1), kinds, 2))
    assert large.shift == pytest.approx(small.shift * 2) and replace(large, shift=small.shift) == small


def test_a_bucket_beyond_the_budget_is_named_before_the_first_step(
    two_shapes: Path, dpo_job: Callable[..., TrainingJob]
) -> None:
    job = replace(dpo_job("small", dpo={"desync_share": 0.0}, max_tokens=40), data=two_shapes)
    with pytest.raises(ConfigError, match="bucket 5x4x4"):
        run_job(job, Context())
    assert not (job.output / "metrics.jsonl").exists()


def test_a_bucket_larger_than_memory_is_named(two_shapes: Path, dpo_job: Callable[..., TrainingJob]) -> None:
    job = replace(dpo_job("room", dpo={"desync_share": 0.0}), data=two_shapes)
    schedule = schedule_of(job, open_pairs(job))
    require_memory(job, schedule, 2**30)
    shapes = [bucket.shapes for bucket in schedule.buckets.kinds]
    assert job.network is not None
    needed = [
        plan_memory(MemoryRequest(job.network, job.dpo.adapter, "float32", own, 8, "none")).total for own in shapes
    ]
    assert needed[0] < needed[1]
    with pytest.raises(ConfigError, match="bucket 5x4x4: 4 sample") as caught:
        require_memory(job, schedule, needed[1] - 1)
    fix = re.search(r"--set dpo\.loop\.max_tokens=(\d+)", caught.value.fix)
    assert fix is not None
    loop = job.dpo.loop.model_copy(update={"max_tokens": int(fix[1])})
    smaller = replace(job, settings=job.dpo.model_copy(update={"loop": loop}))
    require_memory(smaller, schedule_of(smaller, open_pairs(smaller)), needed[1] - 1)
    with pytest.raises(ConfigError, match="1 sample") as caught:
        require_memory(smaller, schedule_of(smaller, open_pairs(smaller)), 1)
    assert caught.value.fix.startswith("--set dpo.loop.activation_checkpointing=true")
