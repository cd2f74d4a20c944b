"""Stage ``train``: encodes the clips of the pairs and trains a LoRA adapter by AV-DPO; SFT network and adapter are the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from avpref.config.schema import Settings
from avpref.config.training_settings import DpoSettings
from avpref.datasets import tables
from avpref.datasets.latents import LATENTS, STORE_VERSION, TrainingSample, text_id
from avpref.domain import ALL_DIMENSIONS, MODALITIES, Candidate, modalities_of
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.shapes import shape_of_candidate
from avpref.flows.stages.alignment.preview_texts import with_previews
from avpref.flows.stages.alignment.reference_scores import cached_scores
from avpref.flows.stages.shaped_passes import FinishedPasses, StagePass, run_by_shape
from avpref.flows.stages.training.token_budget import within_budget
from avpref.flows.stages.training.trained_models import reuse_trained_model
from avpref.flows.stages.training.training_data import TrainingSource, launch_training, write_training_set
from avpref.flows.stages.training.training_record import record_trained
from avpref.flows.workers.encode_worker import CandidateEncodeSpec, EncodeItem
from avpref.flows.workers.generator import codec_identity
from avpref.flows.workers.sound_changes import SoundChange, sound_changes
from avpref.storage.documents import quarantine_file
from avpref.storage.latents.latent_units import ShardImporter
from avpref.storage.table_readers import read_candidates
from avpref.trainer.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from avpref.trainer.job import TrainingJob
from avpref.trainer.losses import Moves
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.run_job import ADAPTER_FOLDER, CONTINUED_ADAPTER_FOLDER, SUMMARY_FILE

ENCODE = "encode"
TRAIN = "train"
NUM_DELAYS = 6
ADAPTERS = "adapters"
DELAYED = "-delayed"
"""Suffix of the ids of encoded clips that also have delayed versions."""


@reporting.stage("train")
def train(run: Run) -> StageCounts:
    """Train the adapter of the run if it does not exist yet; the rows are training steps."""
    job = run.training_job
    clip_counts, counts = _train(run, job)
    log_counts(run.events, counts)
    folders = (ADAPTER_FOLDER, CONTINUED_ADAPTER_FOLDER)
    adapter = (f"{folder}/{name}" for folder in folders for name in (WEIGHTS_FILE, CONFIG_FILE))
    run.models.publish(job.output, (*adapter, METRICS_FILE, SUMMARY_FILE))
    record_trained(run)
    return StageCounts(run.settings.dpo.loop.steps, (*clip_counts, counts))


def _train(run: Run, job: TrainingJob) -> tuple[tuple[ItemCounts, ...], ItemCounts]:
    """Reuse the adapter of another run, or train it, unless this run has it; returns the counts of clips and of adapters."""
    clip_counts: tuple[ItemCounts, ...] = ()
    if run.models.bring(job.output / SUMMARY_FILE):  # the trainer writes it last
        return clip_counts, ItemCounts("train", ADAPTERS, present=1)
    folders = [ADAPTER_FOLDER, *([CONTINUED_ADAPTER_FOLDER] if job.sft_is_folded else [])]
    if source := reuse_trained_model(run, job.output, folders, SUMMARY_FILE):
        return clip_counts, ItemCounts("train", ADAPTERS, reused={source: 1})
    fingerprint, clip_counts = _write_data(run, job)
    job = replace(job, latents=fingerprint)
    if run.settings.dpo.loop.previews.every:
        job = with_previews(run, job)
    if run.settings.dpo.reference == "cached":
        job, counts = cached_scores(run, job)
        clip_counts = (*clip_counts, counts)
    launch_training(run, "train", job)
    return clip_counts, ItemCounts("train", ADAPTERS, made=1)


def delays_s(settings: DpoSettings) -> tuple[float, ...]:
    """Delays in seconds of the rejected clips that are made by delaying sound, evenly spaced over the configured range.

    Early sound has a negative delay; late negatives alone teach the policy to sound too early (see docs/decisions/0007). With the
    order ``large_first`` the largest delays come first. Empty where ``desync_share`` is 0, and without kind ``delay``.
    """
    if not settings.desync_share or "delay" not in settings.desync_kinds:
        return ()
    num_early = round(NUM_DELAYS * settings.desync_early_share)
    bounds = settings.desync_min_s, settings.desync_max_s
    late, early = np.linspace(*bounds, NUM_DELAYS - num_early), -np.linspace(*bounds, num_early)
    delays = [float(delay) for delay in (*late, *early)]
    return tuple(delays if settings.desync_order == "flat" else sorted(delays, key=lambda delay: -abs(delay)))


def changes_of(settings: DpoSettings) -> tuple[SoundChange, ...]:
    """The versions of rejected clips that are made by changing sound otherwise; empty where ``desync_share`` is 0."""
    return sound_changes(settings.desync_kinds) if settings.desync_share else ()


def _write_data(run: Run, job: TrainingJob) -> tuple[str, tuple[ItemCounts, ...]]:
    """Encode the clips and texts of the pairs and seal the training set; returns its fingerprint and the counts of clips and texts.

    A pair whose clips fit no forward pass makes a quarantine row with the reason. Raises InputError where no pair is left.
    """
    pairs = run.tables.read(tables.PAIRS)
    samples, dropped = within_budget(run, _samples(run, pairs), run.settings.dpo.loop, TRAIN)
    run.documents.write_quarantine(quarantine_file(TRAIN), dropped)
    encoded = _encode(run, samples)
    clips = run.units(LATENTS).read(encoded.units)[0]
    num_versions = len(delays_s(run.settings.dpo)) + len(changes_of(run.settings.dpo))
    source = TrainingSource("pairs", samples, _without_marks(clips), num_versions)
    fingerprint, text_counts = write_training_set(run, job.data, source)
    return fingerprint, (*encoded.counts, *text_counts)


def _samples(run: Run, pairs: pa.Table) -> list[TrainingSample]:
    """The pairs as training samples, in the order of the table."""
    text = {prompt.prompt_id: text_id(prompt.text) for prompt in run.prompts}
    candidates = {candidate.candidate_id: candidate for candidate in read_candidates(run.tables)}
    moves = moved_modalities(pairs["dimension"].to_pylist(), run.settings.scoring.modalities)
    weights = pair_weights(pairs, run.settings.dpo.loss.margin_power)
    columns = (pairs[name].to_pylist() for name in ("pair_id", "chosen", "rejected"))
    samples = []
    for row, (pair_id, chosen, rejected) in enumerate(zip(*columns, strict=True)):
        clip = candidates[chosen]
        moved = (True, True) if moves is None else (bool(moves.video[row]), bool(moves.audio[row]))
        size = clip.num_frames, clip.height_px, clip.width_px
        weight = 1.0 if weights is None else float(weights[row])
        samples.append(TrainingSample(pair_id, chosen, rejected, text[clip.prompt_id], *size, *moved, weight))
    return samples


def _encode(run: Run, samples: Sequence[TrainingSample]) -> FinishedPasses[EncodeItem]:
    """Store the latents of every clip of a pair, and of delayed versions of the chosen ones."""
    text = {prompt.prompt_id: prompt.text for prompt in run.prompts}
    chosen = {sample.chosen for sample in samples}
    used = chosen | {sample.rejected for sample in samples}
    delays, changes = delays_s(run.settings.dpo), changes_of(run.settings.dpo)
    further = [[asdict(change) for change in changes]] if changes else []

    def encode_item(candidate: Candidate) -> EncodeItem:
        own = (delays, changes) if candidate.candidate_id in chosen else ((), ())
        identity = candidate.candidate_id + (DELAYED if any(own) else "")
        return EncodeItem(identity, candidate.path, text[candidate.prompt_id], *own)

    candidates = [candidate for candidate in read_candidates(run.tables) if candidate.candidate_id in used]
    files = run.units(LATENTS)

    def pass_of(settings: Settings, members: Sequence[Candidate]) -> StagePass[EncodeItem]:
        items = [encode_item(candidate) for candidate in members]
        fingerprint = run.fingerprint(ENCODE, STORE_VERSION, delays, codec_identity(settings), *further)
        importer = ShardImporter(run.files, {item.item_id: item.path for item in items})
        return StagePass(
            plan_stage(ENCODE, "clips", fingerprint, [[item] for item in items], settings.run),
            files,
            CandidateEncodeSpec(run.media, run.files, settings, files),
            Reuse(files, run.files, run.siblings, "sample_id", importer=importer),
        )

    return run_by_shape(run, candidates, shape_of_candidate, pass_of)


def _without_marks(clips: pa.Table) -> pa.Table:
    """Rows of the index with the ids of candidates: the mark of clips with delayed versions belongs to the item alone."""
    column = clips.schema.get_field_index("sample_id")
    return clips.set_column(
        column, clips.schema.field(column), pc.replace_substring_regex(clips["sample_id"], f"{DELAYED}$", "")
    )


def pair_weights(pairs: pa.Table, power: float) -> torch.Tensor | None:
    """Weights of the pairs from the distance of their rewards: (margin / mean margin)^power, scaled to a mean of 1; float32 [N].

    None for ``power`` 0, and where no pair has a positive margin. A margin is the sum over dimensions, as in table ``pairs``.
    """
    margins = np.maximum(pairs["margin_total"].to_numpy().astype(np.float64), 0.0)
    if not power or not margins.any():
        return None
    weights = (margins / margins.mean()) ** power
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def moved_modalities(dimensions: Sequence[str], other_dimensions: Mapping[str, str]) -> Moves | None:
    """Which modalities the loss of each pair moves, bool [N], from what the pairs speak for; None where all speak for everything.

    ``other_dimensions`` is ``scoring.modalities``; see :func:`avpref.domain.modalities_of`.
    """
    if all(dimension == ALL_DIMENSIONS for dimension in dimensions):
        return None
    moved = [
        frozenset(MODALITIES) if dimension == ALL_DIMENSIONS else modalities_of(dimension, other_dimensions)
        for dimension in dimensions
    ]
    return Moves(*(torch.tensor([modality in of_pair for of_pair in moved]) for modality in MODALITIES))
