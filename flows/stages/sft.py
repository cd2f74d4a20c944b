"""Stage ``sft``: encodes the SFT clips and trains the network on them by flow matching; candidates are sampled from that network."""

from __future__ import annotations

from pathlib import Path

import torch

from avpref.config.training_settings import SftSettings, SftWeights
from avpref.datasets.latents import LATENTS
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import FinishedUnits, run_stage
from avpref.flows.placement import placed_loop
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import NETWORKS, Run
from avpref.flows.stages.encode_texts import encode_texts
from avpref.flows.stages.trained_models import reuse_trained_model
from avpref.flows.stages.training_data import TrainingTexts, clip_set, launch_training, read_latents
from avpref.flows.workers.encode_worker import SftEncodeSpec
from avpref.flows.workers.generator import base_of, codec_identity
from avpref.flows.workers.prompt_sources import SftItem
from avpref.models.bases.base_model import GivenWeights
from avpref.storage.documents import quarantine_file
from avpref.storage.local_files import storage_errors
from avpref.trainer.batches import save_clip_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.run_job import NETWORK_FILE, SUMMARY_FILE

SFT_CLIPS = "sft_clips"
DATA_FILE = "clips.safetensors"
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
    """Merge the given network and its LoRA into one checkpoint, once for all runs of the folder."""
    output = run.sft_output
    if (output / NETWORK_FILE).exists():
        return ItemCounts("sft", NETWORKS, present=1, because=GIVEN_WEIGHTS)
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    base, lora = base_of(run.settings), Path(weights.lora) if weights.lora else None
    network = base.convert(GivenWeights(weights.network, lora, getattr(torch, weights.dtype)))
    with storage_errors(output):
        base.save(output / NETWORK_FILE, network, {"source": Path(weights.network).name})
    return ItemCounts("sft", NETWORKS, made=1, because=GIVEN_WEIGHTS)


def _train(run: Run, settings: SftSettings) -> tuple[tuple[ItemCounts, ...], ItemCounts]:
    """Reuse the network of another run, or train it, unless this run has it; returns the counts of clips and of networks."""
    output = run.sft_output
    clip_counts: tuple[ItemCounts, ...] = ()
    if run.models.bring(output / NETWORK_FILE):
        counts = ItemCounts("sft", NETWORKS, present=1)
    elif source := reuse_trained_model(run, output, [SUMMARY_FILE], NETWORK_FILE):
        counts = ItemCounts("sft", NETWORKS, reused={source: 1})
    else:
        clip_counts = _write_data(run, output / DATA_FILE)
        launch_training(run, "sft", _job(run, settings, output))
        counts = ItemCounts("sft", NETWORKS, made=1)
    run.models.publish(output, (NETWORK_FILE, METRICS_FILE, SUMMARY_FILE))
    return clip_counts, counts


def _encode_clips(run: Run) -> FinishedUnits[SftItem]:
    settings = run.settings
    depends_on = settings.prompts.kind, settings.clip.model_dump(mode="json"), codec_identity(settings)
    fingerprint = run.fingerprint(SFT_CLIPS, *depends_on, settings.run.seed)
    plan = plan_stage(SFT_CLIPS, "clips", fingerprint, [[item] for item in run.sft_items], settings.run)
    files = run.units(LATENTS)
    reuse: Reuse[SftItem] = Reuse(files, run.files, run.siblings, "sample_id")
    return run_stage(run, plan, files, lambda: SftEncodeSpec(settings, files), reuse, reporting.observer())


def _write_data(run: Run, path: Path) -> tuple[ItemCounts, ...]:
    """Encode the SFT clips and their texts and write the trainer's data file; returns the counts of both."""
    units, counts = _encode_clips(run)
    rows, quarantined = run.units(LATENTS).read(units)
    run.documents.write_quarantine(quarantine_file("sft"), quarantined)
    if path.exists():
        return (counts,)
    clips = read_latents(rows, run.settings)
    texts = encode_texts(run, clips.texts)
    save_clip_set(path, clip_set(clips, TrainingTexts(run.settings, run.runs)))
    return counts, *texts


def _job(run: Run, sft_settings: SftSettings, output: Path) -> TrainingJob:
    settings, loop = run.settings, placed_loop(run.settings.executor, sft_settings.loop)
    return TrainingJob(
        settings=sft_settings.model_copy(update={"loop": loop}),
        base=settings.base,
        network=settings.network,
        clip=settings.clip,
        data=output / DATA_FILE,
        output=output,
        seed=settings.run.seed,
        device=loop.device,
    )
