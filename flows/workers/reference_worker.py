"""Workers that compute the reference's scores of training batches, so that training steps need no forward pass of the reference."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avpref.datasets.reference_table import ReferenceScoreRow
from avpref.execution.contract import Receipt
from avpref.storage.model_files import TrainedFiles
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles
from avpref.trainer.job import TrainingJob
from avpref.trainer.noise import SampleIndex
from avpref.trainer.parallel import Context, choose_device
from avpref.trainer.reference_cache import score_batch
from avpref.trainer.run_job import PreferenceTraining, prepare_preference_training


@dataclass(frozen=True)
class ReferenceItem:
    """A batch of one process and step of a training, as (row, epoch) of its pairs."""

    item_id: str
    pairs: tuple[tuple[int, int], ...]

    @property
    def indices(self) -> list[SampleIndex]:
        """The samples of the batch."""
        return [SampleIndex(row, epoch) for row, epoch in self.pairs]


@dataclass(frozen=True)
class ReferenceSpec:
    """Builds workers that score the batches of ``job``; ``models`` copies its network to a machine that lacks it."""

    job: TrainingJob
    models: TrainedFiles
    files: UnitFiles

    def build(self) -> ReferenceWorker:
        """Load network and pairs. Uses the training's number of threads, so that scores are equal to the last bit."""
        job = self.job
        torch.set_num_threads(job.dpo.loop.num_threads)
        assert job.start_weights is not None, "AV-DPO has weights"
        self.models.bring(job.start_weights)
        for folder in (job.sft_adapter, job.start_adapter):
            if folder is not None:
                self.models.bring(folder)
        context = Context(device=choose_device(job.device, 0))
        return ReferenceWorker(self.files, prepare_preference_training(job, context), context.device)


@dataclass(frozen=True)
class ReferenceWorker:
    """Scores batches with the frozen reference."""

    files: UnitFiles
    training: PreferenceTraining
    device: torch.device

    def run(self, unit: Unit[ReferenceItem]) -> Receipt:
        """Commit the scores of ``unit``'s batches, one row per pair and draw."""
        started, rows = time.perf_counter(), []
        for item in unit.items:
            errors = score_batch(self.training.live, self.training.source, item.indices, self.device)
            rows += self._rows(item.indices, errors)
        self.files.commit(unit, rows)
        return Receipt(len(rows), 0, time.perf_counter() - started)

    def _rows(self, indices: Sequence[SampleIndex], errors: Tensor) -> list[ReferenceScoreRow]:
        values = errors.flatten(1).tolist()
        ids = self.training.source.ids
        return [
            ReferenceScoreRow(ids[index.row], index.row, index.epoch, *map(_known, own))
            for index, own in zip(indices, values, strict=True)
        ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
