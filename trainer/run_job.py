"""Run a training job: SFT (the paper's stages 1 and 2), AV-DPO (stage 3) or a prior. Builds the network, trains it, writes the results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from avpref.config.training.prior_settings import PriorTrainingSettings
from avpref.config.training_settings import DpoSettings, LoopSettings, SftSettings
from avpref.errors import ConfigError
from avpref.identity import derive_seed, digest
from avpref.models.bases.velocity_network import VelocityNetwork, compile_blocks
from avpref.storage.documents import SUMMARY_FILE
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.local_files import replace as write_file
from avpref.trainer.adapter_files import save_adapter, unfold_adapter
from avpref.trainer.adapter_joining import join_adapters, start_from
from avpref.trainer.adapters import POLICY, Policy, add_adapter, add_moving_reference, make_policy
from avpref.trainer.data.conditions import ConditionDraws
from avpref.trainer.data.job_data import noise_of_buckets, open_clips, open_pairs, schedule_of, video_spans
from avpref.trainer.data.memory_check import require_room
from avpref.trainer.data.sample_data import ClipRows
from avpref.trainer.job import TrainingJob
from avpref.trainer.loop import LoopPlan, Observer, TrainingResult, train
from avpref.trainer.metrics import TrainingSummary
from avpref.trainer.monitoring.previews import PreviewPlan, Previews, load_previews
from avpref.trainer.monitoring.speed import ADAPTER_ALONE, ADAPTER_AND_REFERENCE, ALL_WEIGHTS, SpeedMeter
from avpref.trainer.noise import ClipSource, NoiseConfig, PairSource
from avpref.trainer.objectives import FlowObjective, LiveReference, NoReference, PreferenceObjective, Reference
from avpref.trainer.parallel import Context, torch_threads
from avpref.trainer.prior.run_prior import run_prior
from avpref.trainer.reference_cache import (
    CachedReference,
    ReferenceScoreTable,
    load_reference_scores,
    save_reference_scores,
    score_reference,
)
from avpref.trainer.scaling.base_dtype import QUANTISED, with_base_dtype
from avpref.trainer.scaling.sharding import shard_over_ranks, unshard, whole

NETWORK_FILE = "network.safetensors"
RAW_ADAPTER_FOLDER = "adapter_raw"
RAW_NETWORK_FILE = "network_raw.safetensors"
ADAPTER_FOLDER = "adapter"
NEW_ADAPTER_FOLDER = "new_adapter"
CONTINUED_ADAPTER_FOLDER = "continued_adapter"
"""The SFT adapter after AV-DPO, for the weights under it (layout ``two_adapters``)."""
AUDIO_FOLDER = "audio_stage"


def run_job(job: TrainingJob, context: Context) -> TrainingSummary:
    """Run or resume ``job`` as one of ``context.world`` processes; rank 0 writes the results. See :class:`TrainingJob`.

    Raises what :meth:`TrainingJob.check`, loading and :func:`avpref.trainer.loop.train` raise.
    """
    job.check()
    match job.settings:
        case SftSettings():
            summary = _run_sft(job, context)
        case DpoSettings():
            summary = _run_dpo(job, context)
        case PriorTrainingSettings():
            summary = run_prior(job, context)
    if context.is_first:
        hit(FailPoint.TRAINING_DONE)
        write_file(job.output / SUMMARY_FILE, summary.to_json().encode())
    context.wait()
    return summary


def _run_sft(job: TrainingJob, context: Context) -> TrainingSummary:
    """Train the audio branch alone if the job has steps for it (stage 1), then the joint network (stage 2)."""
    network = _start_network(job, context)
    if job.sft.audio_steps:
        _train_audio_branch(job, network, context)
    clips = open_clips(job, job.data)
    module: nn.Module = network
    if job.adapter is None and job.sft.trained == "released":
        job.base_model.freeze_for_joint(network)
    if job.adapter is not None:
        module = add_adapter(with_base_dtype(network, job.dtype), job.adapter, derive_seed("sft adapter", job.seed))
    _prepare(network, job.sft.loop)
    source = _clip_source(job, clips, "joint")
    require_room(job, source.schedule, context)
    shard(job, module, network, context)
    objective = FlowObjective(module, weights=(job.sft.weight_video, job.sft.weight_audio))
    speed = SpeedMeter(job.base_model.latent_work, ALL_WEIGHTS if job.adapter is None else ADAPTER_ALONE)
    plan, observers = _plan(job, job.output, job.sft.loop), observers_of(job, module, context)
    result = whole_result(train(objective, source, plan, context, observers, speed), module)
    if context.is_first:
        _write_sft(job, network, module, result)
    return result.summary


def _write_sft(job: TrainingJob, network: VelocityNetwork, module: nn.Module, result: TrainingResult) -> None:
    """Write the network; of a job with an adapter, the adapter and the network with the adapter folded in, float32.

    With a moving average, that is the result, and a network of which all weights were trained is written as it was too.
    """
    if result.average and job.adapter is None:
        job.base_model.save(job.output / RAW_NETWORK_FILE, network)
    _load_parameters(module, result.average)
    if job.adapter is None:
        job.base_model.save(job.output / NETWORK_FILE, network)
    else:
        assert isinstance(module, PeftModel), "a job with an adapter trains an adapted network"
        save_adapter(module, POLICY, job.output / ADAPTER_FOLDER)
        job.base_model.save(job.output / NETWORK_FILE, cast(VelocityNetwork, module.float().merge_and_unload()))


def _train_audio_branch(job: TrainingJob, network: VelocityNetwork, context: Context) -> None:
    """Train only the audio tensors, in an audio-only network that starts from ``network``, and copy them back into it."""
    data = job.audio_data or job.data
    spans = video_spans(open_clips(job, data), job) if job.base_model.aligns_sound else None
    clips = open_clips(job, data, has_video=False)
    audio_network = job.base_model.audio_branch(network)
    _prepare(audio_network, job.sft.loop)
    shard(job, audio_network, audio_network, context)
    source = _clip_source(job, clips, "audio")
    batch_size = job.sft.audio_batch_size or job.sft.loop.batch_size
    loop = job.sft.loop.model_copy(update={"steps": job.sft.audio_steps, "batch_size": batch_size})
    objective = FlowObjective(audio_network, spans)
    plan = replace(_plan(job, job.output / AUDIO_FOLDER, loop), optimiser=job.sft.audio_optimiser or job.sft.optimiser)
    result = whole_result(train(objective, source, plan, context), audio_network)
    _load_parameters(audio_network, result.average)
    _load_parameters(network, {name: p for name, p in audio_network.named_parameters() if p.requires_grad})


def _clip_source(job: TrainingJob, clips: ClipRows, part: str) -> ClipSource:
    schedule, noise = schedule_of(job, clips), _sft_noise(job, part)
    return ClipSource(
        clips, noise, schedule, noise_of_buckets(job, noise, schedule.buckets), _condition_draws(job, part)
    )


def _run_dpo(job: TrainingJob, context: Context) -> TrainingSummary:
    training = prepare_preference_training(job, context)
    scores = training.reference_scores(job, context)
    objective = PreferenceObjective(training.policy, job.dpo.loss, scores, job.dpo.two_pass, job.dpo.by_side)
    model = training.policy.model
    cost = ADAPTER_AND_REFERENCE if job.dpo.reference in ("live", "ema") else ADAPTER_ALONE
    speed = SpeedMeter(job.base_model.latent_work, cost)
    plan, observers = _plan(job, job.output, job.dpo.loop), observers_of(job, model, context)
    result = whole_result(train(objective, training.source, plan, context, observers, speed), model)
    if context.is_first:
        if result.average:
            save_adapter(model, POLICY, job.output / RAW_ADAPTER_FOLDER)
            _load_parameters(model, result.average)
        _write_policy(job, training.policy)
    return result.summary


def _write_policy(job: TrainingJob, policy: Policy) -> None:
    """Write the adapter that belongs to the job's weights, and beside it the trained one where that is another.

    Where the reference has an adapter of an earlier round, the joined adapter is the result. Where the weights hold the SFT adapter,
    the difference from it is: of twice the rank, so that networks with the SFT adapter folded in take it like any other.
    """
    if job.sft_is_folded and job.sft_adapter is not None:
        save_adapter(policy.model, POLICY, job.output / CONTINUED_ADAPTER_FOLDER)
        join_adapters(job.sft_adapter, job.output / CONTINUED_ADAPTER_FOLDER, job.output / ADAPTER_FOLDER, -1.0)
        return
    if job.start_adapter is None or job.reference == "base":
        save_adapter(policy.model, POLICY, job.output / ADAPTER_FOLDER)
        return
    save_adapter(policy.model, POLICY, job.output / NEW_ADAPTER_FOLDER)
    join_adapters(job.start_adapter, job.output / NEW_ADAPTER_FOLDER, job.output / ADAPTER_FOLDER)


def whole_result(result: TrainingResult, module: nn.Module) -> TrainingResult:
    """The result with whole averages, and ``module`` with whole parameters, where ranks hold parts; all ranks must call this."""
    unshard(module)
    return result._replace(average={name: whole(value) for name, value in result.average.items()})


def shard(job: TrainingJob, module: nn.Module, network: VelocityNetwork, context: Context) -> None:
    """Shard ``module`` over the ranks if the job says so. Raises ConfigError where its other settings do not allow it."""
    settings = job.settings
    if settings.loop.sharding != "fsdp2":
        return
    if settings.optimiser.state_bits != 32 or job.dtype in QUANTISED:
        found = f"loop.sharding fsdp2 with optimiser.state_bits {settings.optimiser.state_bits} and dtype {job.dtype}"
        raise ConfigError(found, "float moments and a float base", "--set dpo.loop.sharding=sums")
    shard_over_ranks(module, network, context)


def observers_of(job: TrainingJob, module: nn.Module, context: Context) -> tuple[Observer, ...]:
    """The previews of the job, if it has any."""
    loop = job.settings.loop
    if job.previews is None or not loop.previews.every:
        return ()
    plan = PreviewPlan(job.clip, job.output, loop.previews.every, loop.steps)
    return (Previews(module, load_previews(job.previews), plan, context),)


@dataclass(frozen=True)
class PreferenceTraining:
    """Inputs of AV-DPO: policy, batches of pairs, the live reference, and the key that cached reference scores must have."""

    policy: Policy
    source: PairSource
    live: LiveReference
    cache_key: str

    def reference_scores(self, job: TrainingJob, context: Context) -> Reference:
        """The reference of the loss: none, the score table that the job names, or a forward pass. Raises InputError for a stale table."""
        if job.dpo.reference == "none":
            return NoReference()
        if job.reference_scores is None:
            if job.dpo.reference == "cached":
                found, fix = (
                    "dpo.reference cached without a table of scores",
                    "set reference_scores (cache_reference writes it)",
                )
                raise ConfigError(found, "a table", fix)
            return self.live
        return CachedReference(load_reference_scores(job.reference_scores, self.cache_key), context.device)


def prepare_preference_training(job: TrainingJob, context: Context) -> PreferenceTraining:
    """Load network and pairs of an AV-DPO job and adapt the network. Raises InputError and ConfigError as the loaders do."""
    network = _start_network(job, context)
    seed = derive_seed("policy adapter", job.seed)
    if job.sft_is_folded and job.sft_adapter is not None and job.weights_under is None:
        unfold_adapter(network, job.sft_adapter)
    folded = job.start_adapter if job.reference == "start" else job.sft_adapter
    policy = make_policy(network, job.dpo.adapter, seed, folded, job.dtype)
    if job.start_adapter is not None and job.reference == "base":
        start_from(policy, job.start_adapter)
    if job.dpo.reference == "ema":
        policy = add_moving_reference(policy)
    _prepare(network, job.dpo.loop)
    pairs = open_pairs(job)
    noise = _dpo_noise(job, len(pairs.ids))
    live = LiveReference(policy, job.dpo.loss.reduction, job.dpo.two_pass or job.dpo.by_side)
    shard(job, policy.model, network, context)
    schedule = schedule_of(job, pairs)
    require_room(job, schedule, context)
    source = PairSource(pairs, noise, schedule, noise_of_buckets(job, noise, schedule.buckets))
    return PreferenceTraining(policy, source, live, reference_key(job, len(pairs.ids)))


def reference_key(job: TrainingJob, num_pairs: int) -> str:
    """Hash of all that the reference's errors depend on, to the last bit: weights, dtype, data, noise, division into batches."""
    relevant = ("sha256.", "network.", "base.", "reference", "dtype", "settings.adapter.layout", "sft_is_folded")
    inputs = {key: value for key, value in job.fingerprint().items() if key.startswith(relevant)}
    loop = job.dpo.loop
    computed: list[object] = [
        job.dpo.loss.reduction,
        job.dpo.two_pass or job.dpo.by_side,
        loop.batch_size,
        loop.max_tokens,
        loop.num_processes,
        loop.num_threads,
    ]
    computed += [loop.compile_blocks, loop.sharding, job.device.partition(":")[0], str(torch.__version__)]
    noise = asdict(_dpo_noise(job, num_pairs))
    return digest("reference scores", inputs, noise, order_seed(job), *computed, size=64)


def order_seed(job: TrainingJob) -> int:
    """Seed of the order of the samples."""
    return derive_seed("order", job.seed)


def _dpo_noise(job: TrainingJob, num_pairs: int) -> NoiseConfig:
    dpo, loop, law = job.dpo, job.dpo.loop, job.timestep_law()
    is_growing = dpo.desync_order == "large_first"
    return NoiseConfig(
        derive_seed("dpo", job.seed),
        law.shift,
        law.loc,
        law.spread,
        dpo.caption_dropout,
        dpo.desync_share,
        dpo.timesteps.independent,
        dpo.timesteps.rounded,
        math.ceil(loop.steps * loop.batch_size / num_pairs) if is_growing else 0,
        law.audio_shift,
        law.stretched,
    )


def cache_reference(job: TrainingJob, path: Path, context: Context) -> ReferenceScoreTable:
    """Compute the reference scores of all steps of an AV-DPO job in this process and write them to ``path``.

    Raises what :func:`run_job` raises before training, and StorageError where ``path`` cannot be written.
    """
    job.check()
    loop = job.dpo.loop
    training = prepare_preference_training(job, context)
    with torch_threads(loop.num_threads):
        table = score_reference(
            training.live, training.source, loop, order_seed(job), training.cache_key, context.device
        )
    save_reference_scores(path, table)
    return table


def _start_network(job: TrainingJob, context: Context) -> VelocityNetwork:
    if job.start_weights is not None:
        network = job.base_model.load(job.start_weights, context.device)
        return network.float() if isinstance(job.settings, SftSettings) else network
    return job.base_model.create(derive_seed("network", job.seed)).to(context.device)


def _prepare(network: VelocityNetwork, loop: LoopSettings) -> None:
    network.checkpointing = loop.checkpointing
    if loop.compile_blocks:
        compile_blocks(network)


def _sft_noise(job: TrainingJob, part: str) -> NoiseConfig:
    """Noise of one part of SFT: ``audio`` (stage 1) or ``joint`` (stage 2)."""
    law, timesteps = job.timestep_law(), job.sft.timesteps
    seed = derive_seed("sft", part, job.seed)
    return NoiseConfig(
        seed,
        law.shift,
        law.loc,
        law.spread,
        job.sft.caption_dropout if job.base_model.num_conditions == 1 else 0.0,
        independent=timesteps.independent and part == "joint",
        rounded=timesteps.rounded,
        audio_shift=law.audio_shift,
        stretched=law.stretched,
    )


def _condition_draws(job: TrainingJob, part: str) -> ConditionDraws:
    """Draws of the conditions of one part of SFT; masks belong to the joint part."""
    base, seed = job.base_model, derive_seed("conditions", part, job.seed)
    num_dropped = base.num_conditions if base.num_conditions > 1 else 0
    has_masks = job.sft.masks == "released" and part == "joint"
    return ConditionDraws(seed, has_masks, num_dropped, job.sft.caption_dropout, base.redrawn_texts)


def _plan(job: TrainingJob, output: Path, loop: LoopSettings) -> LoopPlan:
    settings = job.settings
    assert not isinstance(settings, PriorTrainingSettings), "the prior has a plan of its own"
    plan = LoopPlan(loop, settings.optimiser, order_seed(job), output, job.fingerprint())
    match settings:
        case SftSettings():
            return replace(plan, ema_decay=settings.ema_decay)
        case DpoSettings():
            decay = settings.reference_decay if settings.reference == "ema" else None
            alarm = settings.displacement_alarm
            return replace(plan, ema_decay=settings.ema_decay, displacement_alarm=alarm, reference_decay=decay)


@torch.no_grad()
def _load_parameters(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)
