"""Run a training job: SFT (the paper's stages 1 and 2) or AV-DPO (stage 3). Builds the network, trains it, writes the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from avpref.config.training_settings import DpoSettings, LoopSettings, SftSettings
from avpref.identity import derive_seed, digest
from avpref.models.bases.velocity_network import VelocityNetwork, compile_blocks
from avpref.storage.documents import SUMMARY_FILE
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.local_files import replace as write_file
from avpref.trainer.adapter_files import save_adapter
from avpref.trainer.adapters import POLICY, Policy, add_adapter, make_policy
from avpref.trainer.batches import ClipSet, load_clip_set, load_pair_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.loop import LoopPlan, TrainingResult, train
from avpref.trainer.metrics import TrainingSummary
from avpref.trainer.noise import ClipSource, NoiseConfig, PairSource
from avpref.trainer.objectives import FlowObjective, LiveReference, PreferenceObjective, Reference
from avpref.trainer.parallel import Context, torch_threads
from avpref.trainer.reference_cache import (
    CachedReference,
    ReferenceScoreTable,
    load_reference_scores,
    save_reference_scores,
    score_reference,
)

NETWORK_FILE = "network.safetensors"
RAW_NETWORK_FILE = "network_raw.safetensors"
ADAPTER_FOLDER = "adapter"
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
    clips = load_clip_set(job.data)
    module: nn.Module = network
    if job.adapter is not None:
        module = add_adapter(network.to(_dtype(job)), job.adapter, derive_seed("sft adapter", job.seed))
    _prepare(network, job.sft.loop)
    source = ClipSource(clips, _sft_noise(job, "joint"))
    result = train(FlowObjective(module), source, _plan(job, job.output, job.sft.loop), context)
    if context.is_first:
        _write_sft(job, network, module, result)
    return result.summary


def _write_sft(job: TrainingJob, network: VelocityNetwork, module: nn.Module, result: TrainingResult) -> None:
    """Write the adapter or the network. With a moving average, that is the result and the raw network is written too."""
    if result.average and job.adapter is None:
        job.base_model.save(job.output / RAW_NETWORK_FILE, network)
    _load_parameters(module, result.average)
    if job.adapter is None:
        job.base_model.save(job.output / NETWORK_FILE, network)
    else:
        assert isinstance(module, PeftModel), "a job with an adapter trains an adapted network"
        save_adapter(module, POLICY, job.output / ADAPTER_FOLDER)


def _train_audio_branch(job: TrainingJob, network: VelocityNetwork, context: Context) -> None:
    """Train only the audio tensors, in an audio-only network that starts from ``network``, and copy them back into it."""
    clips = load_clip_set(job.audio_data or job.data)
    audio_network = job.base_model.audio_branch(network)
    _prepare(audio_network, job.sft.loop)
    source = ClipSource(replace(clips, video=None), _sft_noise(job, "audio"))
    loop = job.sft.loop.model_copy(update={"steps": job.sft.audio_steps})
    objective = FlowObjective(audio_network, num_video_latents(clips, job))
    result = train(objective, source, _plan(job, job.output / AUDIO_FOLDER, loop), context)
    _load_parameters(audio_network, result.average)
    _load_parameters(network, {name: p for name, p in audio_network.named_parameters() if p.requires_grad})


def num_video_latents(clips: ClipSet, job: TrainingJob) -> int:
    """Video latent frames that the audio of ``clips`` spans: theirs, or those of the job's clips at four frames per latent."""
    return (job.clip.num_frames - 1) // 4 + 1 if clips.video is None else clips.video.shape[2]


def _run_dpo(job: TrainingJob, context: Context) -> TrainingSummary:
    training = prepare_preference_training(job, context)
    objective = PreferenceObjective(training.policy, job.dpo.loss, training.reference_scores(job, context))
    result = train(objective, training.source, _plan(job, job.output, job.dpo.loop), context)
    if context.is_first:
        save_adapter(training.policy.model, POLICY, job.output / ADAPTER_FOLDER)
    return result.summary


@dataclass(frozen=True)
class PreferenceTraining:
    """Inputs of AV-DPO: policy, batches of pairs, the live reference, and the key that cached reference scores must have."""

    policy: Policy
    source: PairSource
    live: LiveReference
    cache_key: str

    def reference_scores(self, job: TrainingJob, context: Context) -> Reference:
        """The score table that the job names, or the live reference. Raises InputError for a stale table."""
        if job.reference_scores is None:
            return self.live
        return CachedReference(load_reference_scores(job.reference_scores, self.cache_key), context.device)


def prepare_preference_training(job: TrainingJob, context: Context) -> PreferenceTraining:
    """Load network and pairs of an AV-DPO job and adapt the network. Raises InputError and ConfigError as the loaders do."""
    network = _start_network(job, context)
    seed = derive_seed("policy adapter", job.seed)
    policy = make_policy(network, job.dpo.adapter, seed, job.sft_adapter, _dtype(job))
    _prepare(network, job.dpo.loop)
    law = job.timestep_law()
    noise = NoiseConfig(
        derive_seed("dpo", job.seed),
        law.shift,
        law.loc,
        law.spread,
        job.dpo.caption_dropout,
        job.dpo.desync_share,
    )
    live = LiveReference(policy, job.dpo.loss.reduction)
    relevant = ("sha256.", "network.", "dtype", "settings.adapter.layout")
    inputs = {key: value for key, value in job.fingerprint().items() if key.startswith(relevant)}
    cache_key = digest("reference scores", inputs, asdict(noise), job.dpo.loss.reduction, size=64)
    return PreferenceTraining(policy, PairSource(load_pair_set(job.data), noise), live, cache_key)


def cache_reference(job: TrainingJob, path: Path, context: Context) -> ReferenceScoreTable:
    """Compute the reference scores of all steps of an AV-DPO job in this process and write them to ``path``.

    Raises what :func:`run_job` raises before training, and StorageError where ``path`` cannot be written.
    """
    job.check()
    loop = job.dpo.loop
    training = prepare_preference_training(job, context)
    order_seed = _plan(job, job.output, loop).seed
    with torch_threads(loop.num_threads):
        table = score_reference(
            training.live, training.source, order_seed, loop.steps, loop.batch_size, training.cache_key, context.device
        )
    save_reference_scores(path, table)
    return table


def _start_network(job: TrainingJob, context: Context) -> VelocityNetwork:
    if job.weights is not None:
        return job.base_model.load(job.weights, context.device)
    return job.base_model.create(derive_seed("network", job.seed)).to(context.device)


def _prepare(network: VelocityNetwork, loop: LoopSettings) -> None:
    network.activation_checkpointing = loop.activation_checkpointing
    if loop.compile_blocks:
        compile_blocks(network)


def _sft_noise(job: TrainingJob, part: str) -> NoiseConfig:
    """Noise of one part of SFT: ``audio`` (stage 1) or ``joint`` (stage 2)."""
    law = job.timestep_law()
    seed = derive_seed("sft", part, job.seed)
    return NoiseConfig(seed, law.shift, law.loc, law.spread, job.sft.caption_dropout)


def _plan(job: TrainingJob, output: Path, loop: LoopSettings) -> LoopPlan:
    settings = job.settings
    plan = LoopPlan(loop, settings.optimiser, derive_seed("order", job.seed), output, job.fingerprint())
    match settings:
        case SftSettings():
            return replace(plan, ema_decay=settings.ema_decay)
        case DpoSettings():
            return replace(plan, displacement_alarm=settings.displacement_alarm)


def _dtype(job: TrainingJob) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[job.dtype]


@torch.no_grad()
def _load_parameters(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)
