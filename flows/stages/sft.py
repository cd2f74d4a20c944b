"""Stage ``sft``: encodes the SFT clips and trains the network on them by flow matching; candidates are sampled from that network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from avpref.config.training_settings import SftSettings, SftWeights
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.flows.placement import placed_loop
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import NETWORKS, Run, start_hash
from avpref.flows.stages.alignment.preview_texts import with_previews
from avpref.flows.stages.training.given_adapter import given_weights, refuse_folded, write_apart
from avpref.flows.stages.training.sft_data import write_clips, write_sound
from avpref.flows.stages.training.trained_models import reuse_trained_model
from avpref.flows.stages.training.training_data import launch_training
from avpref.flows.workers.generator import base_of
from avpref.identity import derive_seed, digest
from avpref.models.bases.base_model import GivenWeights
from avpref.storage.documents import quarantine_file
from avpref.storage.local_files import storage_errors
from avpref.trainer.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from avpref.trainer.job import TrainingJob
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.run_job import ADAPTER_FOLDER, NETWORK_FILE, SUMMARY_FILE

DATA_FILE = "clips.json"
SOUND_FILE = "sound.json"
GIVEN_WEIGHTS = "given weights"


@reporting.stage("sft")
def sft(run: Run) -> StageCounts:
    """Train the SFT network of the run, or convert given weights, if it does not exist yet; the rows are training steps."""
    match run.settings.sft:
        case SftWeights() as weights:
            return StageCounts(0, (log_counts(run.events, _convert(run, weights)),))
        case SftSettings() as settings:
            clip_counts, counts = _train(run, settings)
            return StageCounts(settings.loop.steps, (*clip_counts, log_counts(run.events, counts)))


def _convert(run: Run, weights: SftWeights) -> ItemCounts:
    """Merge the given network and its LoRA into one checkpoint, once for all runs of the folder; kept apart too where AV-DPO needs both."""
    output, base = run.sft_output, base_of(run.settings)
    refuse_folded(weights)
    was_missing = run.settings.continues_given_adapter and write_apart(run.settings, weights, output)
    if (output / NETWORK_FILE).exists():
        return ItemCounts("sft", NETWORKS, made=int(was_missing), present=int(not was_missing), because=GIVEN_WEIGHTS)
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    network = base.convert(given_weights(weights))
    with storage_errors(output):
        base.save(output / NETWORK_FILE, network, {"source": Path(weights.network).name})
    return ItemCounts("sft", NETWORKS, made=1, because=GIVEN_WEIGHTS)


def _train(run: Run, settings: SftSettings) -> tuple[tuple[ItemCounts, ...], ItemCounts]:
    """Reuse the network of another run, or train it, unless this run has it; returns the counts of clips and of networks."""
    output = run.sft_output
    adapter = [] if settings.adapter is None else [ADAPTER_FOLDER]
    clip_counts: tuple[ItemCounts, ...] = ()
    if run.models.bring(output / NETWORK_FILE):
        counts = ItemCounts("sft", NETWORKS, present=1)
    elif source := reuse_trained_model(run, output, [SUMMARY_FILE, *adapter], NETWORK_FILE):
        counts = ItemCounts("sft", NETWORKS, reused={source: 1})
    else:
        job, clip_counts = _prepared(run, settings, output)
        launch_training(run, "sft", job)
        counts = ItemCounts("sft", NETWORKS, made=1)
    files = (f"{folder}/{name}" for folder in adapter for name in (WEIGHTS_FILE, CONFIG_FILE))
    run.models.publish(output, (*files, NETWORK_FILE, METRICS_FILE, SUMMARY_FILE))
    return clip_counts, counts


def _prepared(run: Run, settings: SftSettings, output: Path) -> tuple[TrainingJob, tuple[ItemCounts, ...]]:
    """The job of SFT with its training sets and the network that it starts from, and the counts of what was encoded."""
    fingerprint, left_out, counts = write_clips(run, settings, output / DATA_FILE)
    job = replace(_job(run, settings, output), latents=fingerprint)
    if settings.audio_steps and settings.audio_clips:
        sound, refused, sound_counts = write_sound(run, settings, output / SOUND_FILE)
        left_out, counts = [*left_out, *refused], (*counts, *sound_counts)
        job = replace(job, audio_data=output / SOUND_FILE, audio_latents=sound)
    run.documents.write_quarantine(quarantine_file("sft"), left_out)
    if settings.loop.previews.every:
        job = with_previews(run, job)
    return job, counts


def _start(run: Run, settings: SftSettings) -> Path | None:
    """The file of the network that SFT starts from, converted once for all runs of the folder; None for random values.

    The audio branch of a video network is started from it, as in the paper's stage 1.
    """
    if not settings.network:
        return None
    base, seed = base_of(run.settings), derive_seed("audio branch", run.settings.run.seed)
    path = (
        run.runs / NETWORKS / digest("sft start", start_hash(settings, base), seed, dict(base.identity)) / NETWORK_FILE
    )
    if not path.exists():
        network = base.start(GivenWeights(settings.network, None, torch.float32), seed)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            base.save(path, network, {"source": Path(settings.network).name})
    return path


def _job(run: Run, sft_settings: SftSettings, output: Path) -> TrainingJob:
    settings, loop = run.settings, placed_loop(run.settings.executor, sft_settings.loop)
    return TrainingJob(
        settings=sft_settings.model_copy(update={"loop": loop}),
        base=settings.base,
        base_version=base_of(settings).version,
        network=settings.network,
        clip=settings.clip,
        data=output / DATA_FILE,
        output=output,
        seed=settings.run.seed,
        weights=_start(run, sft_settings),
        adapter=sft_settings.adapter,
        device=loop.device,
        dtype=sft_settings.base_dtype if sft_settings.adapter is not None else "float32",
    )
