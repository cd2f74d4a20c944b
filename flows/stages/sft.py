"""Stage ``sft``: encodes the SFT clips and trains the network on them by flow matching; candidates are sampled from that network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from avpref.config.schema import Settings
from avpref.config.training_settings import SftSettings, SftWeights
from avpref.datasets.latents import AUDIO, LATENTS, STORE_VERSION, TrainingSample, text_id
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.flows.placement import placed_loop
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import NETWORKS, Run
from avpref.flows.shapes import drawn_shape
from avpref.flows.stages.shaped_passes import FinishedPasses, StagePass, run_by_shape
from avpref.flows.stages.token_budget import within_budget
from avpref.flows.stages.trained_models import reuse_trained_model
from avpref.flows.stages.training_data import TrainingSource, launch_training, write_training_set
from avpref.flows.workers.encode_worker import SftEncodeSpec
from avpref.flows.workers.generator import codec_identity
from avpref.flows.workers.prompt_sources import SftItem
from avpref.media.geometry import ClipShape
from avpref.models.checkpoints.network_loading import load_generator, save_network
from avpref.models.checkpoints.shipped_networks import locate_network
from avpref.models.dit import ModelType, NetworkConfig
from avpref.storage.documents import quarantine_file
from avpref.storage.latents.latent_units import ShardImporter
from avpref.storage.local_files import storage_errors
from avpref.trainer.job import TrainingJob
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.run_job import NETWORK_FILE, SUMMARY_FILE

SFT_CLIPS = "sft_clips"
DATA_FILE = "clips.json"
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
    network = load_generator(
        locate_network(weights.network),
        NetworkConfig.from_settings(run.settings.network),
        ModelType.T2AV,
        lora=Path(weights.lora) if weights.lora else None,
        dtype=getattr(torch, weights.dtype),
    )
    with storage_errors(output):
        save_network(output / NETWORK_FILE, network, {"source": Path(weights.network).name})
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
        fingerprint, clip_counts = _write_data(run, settings, output / DATA_FILE)
        launch_training(run, "sft", replace(_job(run, settings, output), latents=fingerprint))
        counts = ItemCounts("sft", NETWORKS, made=1)
    run.models.publish(output, (NETWORK_FILE, METRICS_FILE, SUMMARY_FILE))
    return clip_counts, counts


def _encode_clips(run: Run) -> FinishedPasses[SftItem]:
    """Store the latents of the SFT clips. The clip of a prompt has the prompt's shape, another one a drawn shape."""
    kind, seed = run.settings.prompts.kind, run.settings.run.seed
    files = run.units(LATENTS)

    def shape_of(item: SftItem) -> ClipShape:
        return drawn_shape(run.settings, item.item_id) if item.prompt is None else run.shape_of(item.prompt.prompt_id)

    def pass_of(settings: Settings, members: Sequence[SftItem]) -> StagePass[SftItem]:
        clip = settings.clip.model_dump(mode="json")
        fingerprint = run.fingerprint(SFT_CLIPS, STORE_VERSION, kind, clip, codec_identity(settings), seed)
        return StagePass(
            plan_stage(SFT_CLIPS, "clips", fingerprint, [[item] for item in members], settings.run),
            files,
            SftEncodeSpec(run.files, settings, files),
            Reuse(files, run.files, run.siblings, "sample_id", importer=ShardImporter(run.files)),
        )

    return run_by_shape(run, run.sft_items, shape_of, pass_of)


def _write_data(run: Run, settings: SftSettings, path: Path) -> tuple[str, tuple[ItemCounts, ...]]:
    """Encode the SFT clips and their texts and seal the training set; returns its fingerprint and the counts of both.

    A clip that fits no forward pass makes a quarantine row with the reason. Raises InputError where no clip is left.
    """
    encoded = _encode_clips(run)
    rows, quarantined = run.units(LATENTS).read(encoded.units)
    samples, dropped = within_budget(run, _samples(rows), settings.loop, "sft")
    run.documents.write_quarantine(quarantine_file("sft"), [*quarantined, *dropped])
    fingerprint, text_counts = write_training_set(run, path, TrainingSource("clips", samples, rows))
    return fingerprint, (*encoded.counts, *text_counts)


def _samples(rows: pa.Table) -> list[TrainingSample]:
    """The clips of an index as training samples, in its order."""
    own = rows.filter(pc.equal(rows["part"], AUDIO)).to_pylist()
    size = ("num_frames", "height_px", "width_px")
    return [
        TrainingSample(row["sample_id"], row["sample_id"], "", text_id(row["text"]), *(row[name] for name in size))
        for row in own
    ]


def _job(run: Run, sft_settings: SftSettings, output: Path) -> TrainingJob:
    settings, loop = run.settings, placed_loop(run.settings.executor, sft_settings.loop)
    return TrainingJob(
        settings=sft_settings.model_copy(update={"loop": loop}),
        network=settings.network,
        clip=settings.clip,
        data=output / DATA_FILE,
        output=output,
        seed=settings.run.seed,
        device=loop.device,
    )
