"""Stage ``train``: encode the pairs' clips, then AV-DPO on a LoRA adapter; gives the policy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from avpref.config.training_settings import DpoSettings
from avpref.datasets import tables
from avpref.datasets.latents import LATENTS
from avpref.domain import Candidate
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import SameClips
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.trained_models import take_over
from avpref.flows.stages.training_data import EncodedClips, Texts, progress_of, read_latents
from avpref.flows.stages.training_record import record_trained
from avpref.flows.workers.encode_worker import EncodeItem, EncodeSpec
from avpref.flows.workers.generator import codec_identity
from avpref.storage.table_readers import read_candidates
from avpref.trainer.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from avpref.trainer.batches import PairSet, save_pair_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.run_job import ADAPTER_FOLDER, SUMMARY_FILE

ENCODE = "encode"
NUM_DELAYS = 6
ADAPTERS = "adapters"
DELAYED = "-delayed"
"""Ends the ids of encoded clips that have delayed versions beside them."""


@reporting.stage("train")
def train(run: Run) -> StageCounts:
    """Train the adapter of the run if it is not there yet; the rows are training steps."""
    job = run.training_job
    encoded, counts = _train(run, job)
    log_counts(run.events, counts)
    adapter = (f"{ADAPTER_FOLDER}/{name}" for name in (WEIGHTS_FILE, CONFIG_FILE))
    run.models.publish(job.output, (*adapter, METRICS_FILE, SUMMARY_FILE))
    record_trained(run)
    return StageCounts(run.settings.dpo.loop.steps, (*encoded, counts))


def _train(run: Run, job: TrainingJob) -> tuple[tuple[ItemCounts, ...], ItemCounts]:
    """Take the adapter over from another run, or train it, unless it is there; returns the counts of clips and of adapters."""
    encoded: tuple[ItemCounts, ...] = ()
    if run.models.bring(job.output / SUMMARY_FILE):  # the trainer writes it last
        return encoded, ItemCounts("train", ADAPTERS, present=1)
    if source := take_over(run, job.output, [ADAPTER_FOLDER], SUMMARY_FILE):
        return encoded, ItemCounts("train", ADAPTERS, reused={source: 1})
    if not job.data.exists():
        pairs = run.tables.read(tables.PAIRS)
        clips, clip_counts = _encode(run, pairs)
        save_pair_set(job.data, _pair_set(run, pairs, clips))
        encoded = (clip_counts,)
    with progress_of("train", job) as report:
        launch(job, report)
    return encoded, ItemCounts("train", ADAPTERS, made=1)


def delays_s(settings: DpoSettings) -> tuple[float, ...]:
    """Delays of the rule-made rejected clips, evenly spaced over the configured range; early sound has a negative delay.

    Late negatives alone teach the policy to sound too early (see docs/decisions/0007). None where their share is 0.
    """
    if not settings.desync_share:
        return ()
    num_early = round(NUM_DELAYS * settings.desync_early_share)
    bounds = settings.desync_min_s, settings.desync_max_s
    late, early = np.linspace(*bounds, NUM_DELAYS - num_early), -np.linspace(*bounds, num_early)
    return tuple(float(delay) for delay in (*late, *early))


def _encode(run: Run, pairs: pa.Table) -> tuple[EncodedClips, ItemCounts]:
    """Latents of every clip that a pair uses, delayed versions for the chosen ones."""
    text = {prompt.prompt_id: prompt.text for prompt in run.prompts}
    chosen = set(pairs["chosen"].to_pylist())
    used = chosen | set(pairs["rejected"].to_pylist())
    delays = delays_s(run.settings.dpo)

    def item(candidate: Candidate) -> EncodeItem:
        is_chosen = candidate.candidate_id in chosen
        late = delays if is_chosen else ()
        identity = candidate.candidate_id + (DELAYED if late else "")
        return EncodeItem(identity, candidate.path, text[candidate.prompt_id], late)

    items = [item(candidate) for candidate in read_candidates(run.tables) if candidate.candidate_id in used]
    fingerprint = run.fingerprint(ENCODE, delays, codec_identity(run.settings))
    plan = plan_stage(ENCODE, "clips", fingerprint, [[each] for each in items], run.settings.run)
    files = run.units(LATENTS)
    spec = EncodeSpec(run.media, run.settings, files)
    importer = SameClips(run.files, "sample_id", {item.item_id: item.path for item in items})
    reuse: Reuse[EncodeItem] = Reuse(files, run.files, run.neighbours, "sample_id", importer=importer)
    units, counts = run_stage(run, plan, files, lambda: spec, reuse, reporting.observer())
    return read_latents(files.read(units)[0], run.settings), counts


def _pair_set(run: Run, pairs: pa.Table, clips: EncodedClips) -> PairSet:
    texts = Texts(run.settings, run.runs)
    row = {sample.removesuffix(DELAYED): index for index, sample in enumerate(clips.ids)}
    chosen = [row[candidate] for candidate in pairs["chosen"].to_pylist()]
    rejected = [row[candidate] for candidate in pairs["rejected"].to_pylist()]
    encoded, index = texts.encode([clips.texts[each] for each in chosen])
    delayed = [clips.delayed[each] for each in chosen]
    late = [each for each in delayed if each is not None]
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
        desync_audio=torch.from_numpy(np.stack(late)) if late else None,
    )
