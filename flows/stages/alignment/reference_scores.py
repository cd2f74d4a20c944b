"""Pass ``reference`` of stage ``train``: the reference's scores of all batches of an AV-DPO training, computed by the run's workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from avpref.datasets.reference_table import REFERENCE_SCORES
from avpref.execution.item_counts import ItemCounts
from avpref.execution.plan import plan_stage
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.workers.reference_worker import ReferenceItem, ReferenceSpec
from avpref.trainer.data.buckets import Schedule
from avpref.trainer.data.job_data import open_pairs, schedule_of
from avpref.trainer.job import TrainingJob
from avpref.trainer.reference_cache import ReferenceScoreTable, batches_of_step, save_reference_scores
from avpref.trainer.run_job import order_seed, reference_key

REFERENCE = "reference"
HASH_IN_NAME = 16


def cached_scores(run: Run, job: TrainingJob) -> tuple[TrainingJob, ItemCounts]:
    """``job`` with a table of its reference's scores, which the run's workers compute where it is missing; and the counts of batches.

    A changed network, dtype, pair, noise or division into batches gives another table. Raises as :func:`run_stage`.
    """
    pairs = open_pairs(job)
    num_pairs, schedule = len(pairs.ids), schedule_of(job, pairs)
    key = reference_key(job, num_pairs)
    files = run.units(REFERENCE_SCORES)
    fingerprint = run.fingerprint(REFERENCE, key)
    plan = plan_stage(REFERENCE, "batches", fingerprint, [[item] for item in _items(job, schedule)], run.settings.run)
    units, counts = run_stage(
        run, plan, files, lambda: ReferenceSpec(job, run.models, files), None, reporting.observer()
    )
    path = job.output / f"reference-{key[:HASH_IN_NAME]}.safetensors"
    if not path.exists():
        save_reference_scores(path, _table(files.read(units)[0], num_pairs, key))
    return replace(job, reference_scores=path), counts


def _items(job: TrainingJob, schedule: Schedule) -> list[ReferenceItem]:
    """One item per batch of the training's processes, in the order of the steps."""
    loop, seed = job.dpo.loop, order_seed(job)
    return [
        ReferenceItem(f"step{step:08d}-pass{number}", tuple((index.row, index.epoch) for index in indices))
        for step in range(loop.steps)
        for number, indices in enumerate(batches_of_step(schedule, seed, step, loop.batch_size, loop.num_processes))
    ]


def _table(rows: pa.Table, num_pairs: int, key: str) -> ReferenceScoreTable:
    names = ("chosen_video", "rejected_video", "chosen_audio", "rejected_audio")
    values = np.stack([rows[name].to_numpy(zero_copy_only=False).astype(np.float32) for name in names], axis=1)
    row, draw = (torch.from_numpy(rows[name].to_numpy(zero_copy_only=False).copy()) for name in ("row", "draw"))
    errors = torch.full((num_pairs, int(draw.max()) + 1, 2, 2), torch.nan)
    errors[row, draw] = torch.from_numpy(values).view(-1, 2, 2)
    return ReferenceScoreTable(errors, key)
