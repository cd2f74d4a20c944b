"""Helpers of SFT and AV-DPO training: the training set of a job from encoded clips and texts, and a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avpref.config.executor_settings import InProcessExecutor
from avpref.datasets import tables
from avpref.datasets.latents import LATENTS, TRAINING_SAMPLES, TrainingSample, text_id
from avpref.errors import InputError
from avpref.execution.item_counts import ItemCounts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import FinishedUnits, run_stage
from avpref.flows.placement import join_for_training
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.same_base import on_same_base
from avpref.flows.workers.generator import base_of, negative_text, open_text_encoder, text_identity
from avpref.flows.workers.text_state_worker import TextStateItem, TextStateSpec
from avpref.identity import digest
from avpref.observability.meters import StageMeter, Workers
from avpref.observability.progress import Progress
from avpref.observability.run_status import publishing_pass, subscribers
from avpref.storage.latents.latent_units import ShardImporter
from avpref.storage.latents.training_set import Kind, SetHeader, seal_training_set
from avpref.storage.object_files import ObjectFiles
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.parallel import ProgressCallback

TEXT_STATES = "text_states"


@dataclass(frozen=True)
class TrainingSource:
    """The content of a training set: samples, rows of the index of their clips, delayed versions of every chosen clip."""

    kind: Kind
    samples: Sequence[TrainingSample]
    clips: pa.Table
    num_delays: int = 0


def write_training_set(run: Run, path: Path, source: TrainingSource) -> tuple[str, tuple[ItemCounts, ...]]:
    """Store the states of the samples' texts and seal the training set at ``path``; returns its fingerprint and the texts' counts.

    Raises InputError where there are no samples, StorageError.
    """
    if not source.samples:
        found = f"no {source.kind} to train on"
        fix = f"avpref pairs show {run.run_id} --runs {run.runs}, then change section pairs or make more candidates"
        raise InputError(found, "at least one", fix)
    texts = _encode_texts(run, {sample.text_id for sample in source.samples}, source.clips)
    negative = text_id(run.settings.sampling.negative_prompt)
    states = run.units(LATENTS).read(texts.units)[0]
    used = {name for sample in source.samples for name in (sample.chosen, sample.rejected, sample.text_id)} | {negative}
    index = _rows_of(pa.concat_tables([source.clips, states]), used)
    fingerprint = digest("latents", sorted(set(index["fingerprint"].to_pylist())))
    bring_shards(run, index)
    header = SetHeader(source.kind, fingerprint, *_text_size(run), negative, source.num_delays)
    seal_training_set(path, header, tables.to_arrow(TRAINING_SAMPLES, source.samples), index, run.root)
    return fingerprint, (texts.counts,)


def _text_size(run: Run) -> tuple[int, int]:
    """Number and width of the hidden states of a text."""
    settings = run.settings
    if settings.network is not None:
        return base_of(settings).text_shape()
    _, length, width = negative_text(open_text_encoder(settings, run.runs), settings).states.shape
    return length, width


def _encode_texts(run: Run, ids: set[str], clips: pa.Table) -> FinishedUnits[TextStateItem]:
    """Store the states of the texts of ``ids`` and of the negative prompt, each once. An encoder without weights runs in this process."""
    settings = run.settings
    distinct = dict.fromkeys([settings.sampling.negative_prompt, *sorted(set(clips["text"].to_pylist()))])
    negative = text_id(settings.sampling.negative_prompt)
    items = [TextStateItem(text_id(text), text) for text in distinct if text_id(text) in {*ids, negative}]
    fingerprint = run.fingerprint(TEXT_STATES, text_identity(settings))
    executor = None if base_of(settings).precisions.text else InProcessExecutor()
    plan = plan_stage(TEXT_STATES, "texts", fingerprint, [[item] for item in items], settings.run)
    files = run.units(LATENTS)
    spec = on_same_base(TextStateSpec(run.runs, run.files, settings, files), settings)
    reuse: Reuse[TextStateItem] = Reuse(files, run.files, run.siblings, "sample_id", importer=ShardImporter(run.files))
    return run_stage(run, replace(plan, executor=executor), files, lambda: spec, reuse, reporting.observer())


def _rows_of(index: pa.Table, used: set[str]) -> pa.Table:
    return index.filter(pc.is_in(index["sample_id"], pa.array(sorted(used), pa.string())))


def bring_shards(run: Run, index: pa.Table) -> None:
    """Copy the shards of ``index`` from the run's bucket, if it uses one, to its folder, where the trainer maps them."""
    if not isinstance(run.files, ObjectFiles):
        return
    shards = dict(zip(index["latents_path"].to_pylist(), index["sha256"].to_pylist(), strict=True))
    for name, sha256 in shards.items():
        if not (run.root / name).exists():
            run.files.download(name, run.root / name, sha256)


def launch_training(run: Run, stage: str, job: TrainingJob) -> None:
    """Run or resume ``job`` where its settings place it, with a progress bar. Raises as :func:`avpref.trainer.launch.launch`."""
    join_for_training(run.settings.executor, job.settings.loop)
    with training_progress(stage, job) as on_step:
        launch(job, on_step)


@contextmanager
def training_progress(stage: str, job: TrainingJob) -> Iterator[ProgressCallback]:
    """A callback that moves a progress bar of optimiser steps: it takes the number of finished steps and the metrics of the last one.

    The processes that train count as busy all the time.
    """
    loop = job.settings.loop
    workers = Workers("main", loop.num_processes, float(job.device != "cpu"))
    meter, watchers = (
        StageMeter(stage, loop.steps, unit="steps", workers=workers),
        subscribers(stage, reporting.observer().listener),
    )
    with (
        publishing_pass(watchers, meter),
        Progress(stage, loop.steps, unit="steps", listener=watchers, meter=meter) as progress,
    ):

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            meter.mark_all_busy()
            if step - progress.done > 0:
                progress.advance(min(step, loop.steps) - progress.done)

        yield on_step
        meter.mark_all_busy()
