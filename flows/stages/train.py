"""Stage ``train``: encode the pairs' clips, then AV-DPO on a LoRA adapter; gives the policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from avpref.config.training_settings import DpoSettings
from avpref.datasets import tables
from avpref.datasets.latents import LATENTS
from avpref.domain import Candidate
from avpref.execution.item_counts import Tally, record
from avpref.execution.plan import shards
from avpref.execution.pool import Unit
from avpref.execution.reuse import Reuse
from avpref.execution.reuse_clips import SameClips
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.pair import pairs_hash
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.score import sealed_candidates
from avpref.flows.stages.sft import sft_network
from avpref.flows.stages.trained_models import take_over
from avpref.flows.stages.training_data import EncodedClips, Texts, content_hash, progress_of, read_latents
from avpref.flows.stages.training_record import record_trained
from avpref.flows.workers.encode_worker import EncodeItem, EncodeSpec
from avpref.flows.workers.generator import codec_identity
from avpref.flows.workers.networks import NetworkFiles
from avpref.identity import digest
from avpref.storage.run_folder import RunFolder, open_root
from avpref.trainer.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from avpref.trainer.batches import PairSet, save_pair_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch, read_summary
from avpref.trainer.metrics import METRICS_FILE, TrainingSummary
from avpref.trainer.run_job import ADAPTER_FOLDER, SUMMARY_FILE

ENCODE = "encode"
DATA_FILE = "pairs.safetensors"
NUM_DELAYS = 6
ADAPTERS = "adapters"
DELAYED = "-delayed"
"""Ends the ids of encoded clips that have delayed versions beside them."""


@reporting.stage("train")
def dpo(run_dir: str) -> int:
    """Train the adapter of the run in ``run_dir`` if it is not there yet; returns the number of steps."""
    folder = open_root(Path(run_dir))
    job = training_job(folder)
    steps = folder.settings.dpo.loop.steps
    record(folder.events, _finish(folder, job))
    adapter = (f"{ADAPTER_FOLDER}/{name}" for name in (WEIGHTS_FILE, CONFIG_FILE))
    folder.models.publish(job.output, (*adapter, METRICS_FILE, SUMMARY_FILE))
    record_trained(folder, policy_network(folder), sft_network(folder))
    return steps


def _finish(folder: RunFolder, job: TrainingJob) -> Tally:
    """Take the adapter over from another run, or train it, unless it is there."""
    if folder.models.bring(job.output / SUMMARY_FILE):  # the trainer writes it last
        return Tally("train", ADAPTERS, present=1)
    found = take_over(folder, job.output, [ADAPTER_FOLDER], SUMMARY_FILE)
    if found:
        return Tally("train", ADAPTERS, reused={found: 1})
    if not job.data.exists():
        save_pair_set(job.data, _pair_set(folder))
    with progress_of("train", job) as report:
        launch(job, report)
    return Tally("train", ADAPTERS, made=1)


def policy_network(folder: RunFolder) -> NetworkFiles:
    """The SFT network with the trained adapter. Raises InputError before the stage has run."""
    reference, adapter = sft_network(folder), training_job(folder).output / ADAPTER_FOLDER
    own = content_hash(folder, adapter / WEIGHTS_FILE)
    return NetworkFiles(reference.checkpoint, digest("policy", reference.hash, own, size=64), adapter, own)


def training_summary(folder: RunFolder) -> TrainingSummary:
    """What the training run said of itself. Raises InputError before it has run."""
    job = training_job(folder)
    content_hash(folder, job.output / SUMMARY_FILE)
    return read_summary(job)


def training_job(folder: RunFolder) -> TrainingJob:
    """The AV-DPO job of the run; its output folder is named by everything that it depends on."""
    settings, reference = folder.settings, sft_network(folder)
    fingerprint = folder.fingerprint(
        "dpo", reference.hash, pairs_hash(folder), settings.dpo.model_dump(mode="json"), settings.run.seed
    )
    output = folder.model_folder("dpo", fingerprint)
    return TrainingJob(
        settings=settings.dpo,
        network=settings.network,
        clip=settings.clip,
        data=output / DATA_FILE,
        output=output,
        seed=settings.run.seed,
        weights=reference.checkpoint,
    )


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


def _encode(folder: RunFolder, pairs: pa.Table) -> EncodedClips:
    """Latents of every clip that a pair uses, delayed versions for the chosen ones."""
    text = {prompt.prompt_id: prompt.text for prompt in read_prompts(folder)}
    chosen = set(pairs["chosen"].to_pylist())
    used = chosen | set(pairs["rejected"].to_pylist())
    delays = delays_s(folder.settings.dpo)

    def item(candidate: Candidate) -> EncodeItem:
        is_chosen = candidate.candidate_id in chosen
        late = delays if is_chosen else ()
        identity = candidate.candidate_id + (DELAYED if late else "")
        return EncodeItem(identity, candidate.path, text[candidate.prompt_id], late)

    items = [item(candidate) for candidate in sealed_candidates(folder) if candidate.candidate_id in used]
    fingerprint = folder.fingerprint(ENCODE, delays, codec_identity(folder.settings))
    plan = shards(ENCODE, fingerprint, [[each] for each in items], folder.settings.run)
    files = folder.units(LATENTS)
    spec = EncodeSpec(folder.media, folder.settings, files)
    bring = SameClips(folder.files, "sample_id", {item.item_id: item.path for item in items})
    reuse = Reuse(files, folder.files, folder.neighbours, "sample_id", bring=bring)
    units: list[Unit] = run_stage(folder, ENCODE, files, plan, lambda: spec, "clips", reuse=reuse)
    return read_latents(files.read(units)[0], folder.settings)


def _pair_set(folder: RunFolder) -> PairSet:
    pairs = folder.read(tables.PAIRS)
    clips, texts = _encode(folder, pairs), Texts(folder.settings, folder.root.parent)
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
