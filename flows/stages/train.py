"""Stage ``train``: encodes the clips of the pairs and trains a LoRA adapter by AV-DPO; SFT network and adapter are the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import torch

from avpref.config.training_settings import DpoSettings
from avpref.datasets import tables
from avpref.datasets.latents import LATENTS
from avpref.domain import ALL_DIMENSIONS, MODALITIES, Candidate, modalities_of
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import SameClips
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.alignment.preview_texts import with_previews
from avpref.flows.stages.alignment.reference_scores import cached_scores
from avpref.flows.stages.trained_models import reuse_trained_model
from avpref.flows.stages.training_data import EncodedClips, TrainingTexts, launch_training, read_latents
from avpref.flows.stages.training_record import record_trained
from avpref.flows.workers.encode_worker import CandidateEncodeSpec, EncodeItem
from avpref.flows.workers.generator import codec_identity
from avpref.flows.workers.sound_changes import SoundChange, sound_changes
from avpref.storage.table_readers import read_candidates
from avpref.trainer.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from avpref.trainer.batches import PairSet, save_pair_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.losses import Moves
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.run_job import ADAPTER_FOLDER, SUMMARY_FILE

ENCODE = "encode"
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
    adapter = (f"{ADAPTER_FOLDER}/{name}" for name in (WEIGHTS_FILE, CONFIG_FILE))
    run.models.publish(job.output, (*adapter, METRICS_FILE, SUMMARY_FILE))
    record_trained(run)
    return StageCounts(run.settings.dpo.loop.steps, (*clip_counts, counts))


def _train(run: Run, job: TrainingJob) -> tuple[tuple[ItemCounts, ...], ItemCounts]:
    """Reuse the adapter of another run, or train it, unless this run has it; returns the counts of clips and of adapters."""
    clip_counts: tuple[ItemCounts, ...] = ()
    if run.models.bring(job.output / SUMMARY_FILE):  # the trainer writes it last
        return clip_counts, ItemCounts("train", ADAPTERS, present=1)
    if source := reuse_trained_model(run, job.output, [ADAPTER_FOLDER], SUMMARY_FILE):
        return clip_counts, ItemCounts("train", ADAPTERS, reused={source: 1})
    if not job.data.exists():
        pairs = run.tables.read(tables.PAIRS)
        clips, counts = _encode(run, pairs)
        save_pair_set(job.data, _pair_set(run, pairs, clips))
        clip_counts = (counts,)
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


def _encode(run: Run, pairs: pa.Table) -> tuple[EncodedClips, ItemCounts]:
    """Latents of every clip of a pair, and of delayed versions of the chosen ones."""
    text = {prompt.prompt_id: prompt.text for prompt in run.prompts}
    chosen = set(pairs["chosen"].to_pylist())
    used = chosen | set(pairs["rejected"].to_pylist())
    delays, changes = delays_s(run.settings.dpo), changes_of(run.settings.dpo)

    def encode_item(candidate: Candidate) -> EncodeItem:
        own = (delays, changes) if candidate.candidate_id in chosen else ((), ())
        identity = candidate.candidate_id + (DELAYED if any(own) else "")
        return EncodeItem(identity, candidate.path, text[candidate.prompt_id], *own)

    items = [encode_item(candidate) for candidate in read_candidates(run.tables) if candidate.candidate_id in used]
    further = [[asdict(change) for change in changes]] if changes else []
    fingerprint = run.fingerprint(ENCODE, delays, codec_identity(run.settings), *further)
    plan = plan_stage(ENCODE, "clips", fingerprint, [[item] for item in items], run.settings.run)
    files = run.units(LATENTS)
    spec = CandidateEncodeSpec(run.media, run.settings, files)
    importer = SameClips(run.files, "sample_id", {item.item_id: item.path for item in items})
    reuse: Reuse[EncodeItem] = Reuse(files, run.files, run.siblings, "sample_id", importer=importer)
    units, counts = run_stage(run, plan, files, lambda: spec, reuse, reporting.observer())
    return read_latents(files.read(units)[0], run.settings), counts


def _pair_set(run: Run, pairs: pa.Table, clips: EncodedClips) -> PairSet:
    texts = TrainingTexts(run.settings, run.runs)
    row_of = {clip_id.removesuffix(DELAYED): row for row, clip_id in enumerate(clips.ids)}
    chosen = [row_of[candidate] for candidate in pairs["chosen"].to_pylist()]
    rejected = [row_of[candidate] for candidate in pairs["rejected"].to_pylist()]
    encoded, index = texts.encode([clips.texts[row] for row in chosen])
    moves = moved_modalities(pairs["dimension"].to_pylist(), run.settings.scoring.modalities)
    delayed_audio = [audio for row in chosen if (audio := clips.delayed[row]) is not None]
    return PairSet(
        ids=tuple(pairs["pair_id"].to_pylist()),
        chosen_video=torch.from_numpy(clips.video[chosen]),
        rejected_video=torch.from_numpy(clips.video[rejected]),
        chosen_audio=torch.from_numpy(clips.audio[chosen]),
        rejected_audio=torch.from_numpy(clips.audio[rejected]),
        text=encoded.states,
        text_mask=encoded.mask,
        text_index=index,
        negative_text=texts.negative.states,
        negative_mask=texts.negative.mask,
        desync_audio=torch.from_numpy(np.stack(delayed_audio)) if delayed_audio else None,
        moves_video=None if moves is None else moves.video,
        moves_audio=None if moves is None else moves.audio,
        weights=pair_weights(pairs, run.settings.dpo.loss.margin_power),
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
