"""The paper's three stages: audio branch alone, joint flow matching, and AV-DPO. What is built, trained and written in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from avpref.config.schema import DpoSettings, LoopSettings, SftSettings
from avpref.identity import derive_seed, digest
from avpref.models.checkpoints.network_loading import load_network, save_network
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig, compile_blocks
from avpref.models.initialisation import create_network
from avpref.storage.documents import SUMMARY_FILE
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.local_files import replace as write_file
from avpref.trainer.adapter_files import save_adapter
from avpref.trainer.adapters import POLICY, Policy, add_adapter, make_policy
from avpref.trainer.batches import ClipSet, load_clip_set, load_pair_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.loop import Plan, Trained, train
from avpref.trainer.metrics import TrainingSummary
from avpref.trainer.noise import ClipSource, DrawLaw, PairSource, resolve_shift
from avpref.trainer.objectives import FlowObjective, LiveReference, PreferenceObjective, Reference
from avpref.trainer.parallel import Context, torch_threads
from avpref.trainer.reference_cache import CachedReference, ScoreTable, load_scores, save_scores, score_reference

NETWORK_FILE = "network.safetensors"
RAW_NETWORK_FILE = "network_raw.safetensors"
ADAPTER_FOLDER = "adapter"
AUDIO_STAGE_FOLDER = "audio_stage"


def run_job(job: TrainingJob, context: Context) -> TrainingSummary:
    """Run or resume ``job`` as one of ``context.world`` processes; the first writes the results. See :class:`TrainingJob`.

    Raises what :meth:`TrainingJob.check`, loading and :func:`avpref.trainer.loop.train` raise.
    """
    job.check()
    match job.settings:
        case SftSettings():
            summary = _run_sft(job, job.settings, context)
        case DpoSettings():
            summary = _run_dpo(job, job.settings, context)
    if context.is_first:
        hit(FailPoint.TRAINING_DONE)
        write_file(job.output / SUMMARY_FILE, summary.to_json().encode())
    context.wait()
    return summary


def _run_sft(job: TrainingJob, settings: SftSettings, context: Context) -> TrainingSummary:
    """Stage 1 if it has steps, then stage 2."""
    network = _start_network(job, context)
    if settings.audio_steps:
        _run_audio_stage(job, settings, network, context)
    clips = load_clip_set(job.data)
    module: nn.Module = network
    if job.adapter is not None:
        module = add_adapter(network.to(_dtype(job)), job.adapter, derive_seed("sft adapter", job.seed))
    _prepare(network, settings.loop)
    source = ClipSource(clips, _sft_law(job, settings, "joint"))
    trained = train(FlowObjective(module), source, _plan(job, job.output, settings.loop), context)
    if context.is_first:
        _write_sft(job, network, module, trained)
    return trained.summary


def _write_sft(job: TrainingJob, network: JavisDiT, module: nn.Module, trained: Trained) -> None:
    """The adapter, or the network; with a moving average that is what counts, and the raw network stands beside it."""
    if trained.average and job.adapter is None:
        save_network(job.output / RAW_NETWORK_FILE, network)
    _load_parameters(module, trained.average)
    if job.adapter is None:
        save_network(job.output / NETWORK_FILE, network)
    else:
        assert isinstance(module, PeftModel), "a job with an adapter trains an adapted network"
        save_adapter(module, POLICY, job.output / ADAPTER_FOLDER)


def _run_audio_stage(job: TrainingJob, settings: SftSettings, network: JavisDiT, context: Context) -> None:
    """Train exactly the audio tensors in an audio-only build that shares ``network``'s values, and take them back into it."""
    clips = load_clip_set(job.audio_data or job.data)
    build = audio_build(network)
    _prepare(build, settings.loop)
    source = ClipSource(replace(clips, video=None), _sft_law(job, settings, "audio"))
    loop = settings.loop.model_copy(update={"steps": settings.audio_steps})
    objective = FlowObjective(build, num_video_latents(clips, job))
    trained = train(objective, source, _plan(job, job.output / AUDIO_STAGE_FOLDER, loop), context)
    _load_parameters(build, trained.average)
    _load_parameters(network, {name: p for name, p in build.named_parameters() if p.requires_grad})


def audio_build(network: JavisDiT) -> JavisDiT:
    """An audio-only build with the values of ``network``, in which only the audio tensors require gradients.

    These are patch embedding, head, time projection, and every block's audio feed-forward and its modulation.
    """
    with torch.device("meta"):
        build = JavisDiT(network.config, ModelType.T2A)
    values = network.state_dict()
    build.load_state_dict({name: values[name].detach().clone() for name in build.state_dict()}, assign=True)
    for name, parameter in build.named_parameters():
        parameter.requires_grad_(is_audio_tensor(name))
    return build


def is_audio_tensor(name: str) -> bool:
    """Whether a tensor belongs to the audio branch alone: some part of its dotted name starts with ``audio_``."""
    return any(part.startswith("audio_") for part in name.split("."))


def num_video_latents(clips: ClipSet, job: TrainingJob) -> int:
    """Video latent frames that the audio of ``clips`` spans: theirs, or those of the job's clips at four frames per latent."""
    return (job.clip.num_frames - 1) // 4 + 1 if clips.video is None else clips.video.shape[2]


def _run_dpo(job: TrainingJob, settings: DpoSettings, context: Context) -> TrainingSummary:
    stage = open_preference_stage(job, settings, context)
    objective = PreferenceObjective(stage.policy, settings.loss, stage.scores(job, context))
    trained = train(objective, stage.source, _plan(job, job.output, settings.loop), context)
    if context.is_first:
        save_adapter(stage.policy.model, POLICY, job.output / ADAPTER_FOLDER)
    return trained.summary


@dataclass(frozen=True)
class PreferenceStage:
    """What AV-DPO needs: policy, pairs, the live reference, and the key that cached reference scores must have."""

    policy: Policy
    source: PairSource
    live: LiveReference
    cache_key: str

    def scores(self, job: TrainingJob, context: Context) -> Reference:
        """The table that the job names, or the live reference. Raises InputError for a stale table."""
        if job.reference_scores is None:
            return self.live
        return CachedReference(load_scores(job.reference_scores, self.cache_key), context.device)


def open_preference_stage(job: TrainingJob, settings: DpoSettings, context: Context) -> PreferenceStage:
    """Load network and pairs of an AV-DPO job and adapt the network."""
    network = _start_network(job, context)
    seed = derive_seed("policy adapter", job.seed)
    policy = make_policy(network, settings.adapter, seed, job.sft_adapter, _dtype(job))
    _prepare(network, settings.loop)
    shift = resolve_shift(settings.timesteps, job.clip)
    law = DrawLaw(
        derive_seed("dpo", job.seed),
        shift,
        settings.timesteps.loc,
        settings.timesteps.spread,
        settings.caption_dropout,
        settings.desync_share,
    )
    live = LiveReference(policy, settings.loss.reduction)
    prints = job.fingerprint()
    inputs = {
        key: value
        for key, value in prints.items()
        if key.startswith(("sha256.", "network.", "dtype", "settings.adapter.layout"))
    }
    key = digest("reference scores", inputs, repr(law), settings.loss.reduction, size=64)
    return PreferenceStage(policy, PairSource(load_pair_set(job.data), law), live, key)


def cache_reference(job: TrainingJob, path: Path, context: Context) -> ScoreTable:
    """Compute the reference scores of all steps of an AV-DPO job in this process and write them to ``path``."""
    job.check()
    assert isinstance(job.settings, DpoSettings), "only AV-DPO has a reference"
    loop = job.settings.loop
    stage = open_preference_stage(job, job.settings, context)
    order_seed = _plan(job, job.output, loop).seed
    with torch_threads(loop.num_threads):
        table = score_reference(
            stage.live, stage.source, order_seed, loop.steps, loop.batch_size, stage.cache_key, context.device
        )
    save_scores(path, table)
    return table


def _start_network(job: TrainingJob, context: Context) -> JavisDiT:
    config = NetworkConfig.from_settings(job.network)
    if job.weights is not None:
        return load_network(job.weights, config, ModelType.T2AV, device=context.device)
    generator = torch.Generator().manual_seed(derive_seed("network", job.seed))
    return create_network(config, ModelType.T2AV, generator).to(context.device)


def _prepare(network: JavisDiT, loop: LoopSettings) -> None:
    network.activation_checkpointing = loop.activation_checkpointing
    if loop.compile_blocks:
        compile_blocks(network)


def _sft_law(job: TrainingJob, settings: SftSettings, stage: str) -> DrawLaw:
    timesteps = settings.timesteps
    shift = resolve_shift(timesteps, job.clip)
    return DrawLaw(
        derive_seed("sft", stage, job.seed), shift, timesteps.loc, timesteps.spread, settings.caption_dropout
    )


def _plan(job: TrainingJob, output: Path, loop: LoopSettings) -> Plan:
    settings = job.settings
    plan = Plan(loop, settings.optimiser, derive_seed("order", job.seed), output, job.fingerprint())
    match settings:
        case SftSettings():
            return replace(plan, ema_decay=settings.ema_decay)
        case DpoSettings():
            return replace(plan, displacement_alarm=settings.displacement_alarm)


def _dtype(job: TrainingJob) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[job.dtype]


@torch.no_grad()
def _load_parameters(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    own = dict(module.named_parameters())
    for name, value in values.items():
        own[name].copy_(value)
