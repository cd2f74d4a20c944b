"""Cached reference scores: four floats per (pair, epoch) replace a forward pass of the reference per step.

Noise is counter-based, so a pair has the same noise and timestep in a given epoch of every run. Scores are computed in the
batches of training, those of each of its processes, which makes them bitwise equal to live ones on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avpref.config.training_settings import LoopSettings
from avpref.errors import InputError
from avpref.storage.local_files import replace
from avpref.trainer.data.buckets import SampleIndex, Schedule
from avpref.trainer.noise import FlowBatch, PairSource, shard_for_rank
from avpref.trainer.objectives import Reference, ReferenceScores

MODALITIES = ("video", "audio")
AGAIN = "compute them again with cache_reference"


@dataclass(frozen=True)
class ReferenceScoreTable:
    """Errors [N pairs, K epochs, 2 modalities (video, audio), 2 sides (chosen, rejected)], NaN where absent, and their key.

    ``key`` is a hash of everything that the errors depend on: weights, dtype, data, noise configuration, reduction.
    """

    errors: Tensor
    key: str


class CachedReference:
    """Reads the errors of the reference from a table. Its predictions, and therefore the drift, are unknown."""

    def __init__(self, table: ReferenceScoreTable, device: torch.device) -> None:
        self._errors = table.errors
        self._device = device

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors on the rows of ``batch``. Raises InputError for an epoch or pair that the table lacks."""
        rows, epochs = [index.row for index in batch.indices], [index.epoch for index in batch.indices]
        if max(epochs) >= self._errors.shape[1]:
            raise InputError(f"no reference scores of epoch {max(epochs)}", f"{max(epochs) + 1} epochs", AGAIN)
        batch_errors = self._errors[rows, epochs]
        present = (batch.target.video is not None, batch.target.audio is not None)
        values: list[Tensor | None] = []
        for modality, is_present in enumerate(present):
            errors = batch_errors[:, modality].T.flatten()
            if is_present and errors.isnan().any():
                raise InputError(
                    f"no reference scores ({MODALITIES[modality]}) of some pairs of this step",
                    "scores of all epochs of the run",
                    AGAIN,
                )
            values.append(errors.to(self._device) if is_present else None)
        return ReferenceScores(values[0], values[1], None)


def batches_of_step(schedule: Schedule, seed: int, step: int, batch_size: int, world: int) -> list[list[SampleIndex]]:
    """The batches in which ``world`` processes compute ``step``: the forward passes of every rank."""
    indices = schedule.samples(seed, step, batch_size)
    parts = (shard_for_rank(indices, rank, world) for rank in range(world))
    return [indices_of_pass for part in parts for indices_of_pass in schedule.passes(part)]


def score_batch(live: Reference, source: PairSource, indices: Sequence[SampleIndex], device: torch.device) -> Tensor:
    """Errors of the reference on one batch: float32 [pairs, 2 modalities, 2 sides] on the CPU, NaN for an absent modality."""
    scores = live.scores(source.batch(indices).to(device))
    errors = torch.full((len(indices), 2, 2), torch.nan)
    for modality, modality_errors in enumerate((scores.video, scores.audio)):
        if modality_errors is not None:
            errors[:, modality] = modality_errors.cpu().view(2, len(indices)).T
    return errors


def table_of(num_pairs: int, scored: Iterable[tuple[Sequence[SampleIndex], Tensor]], key: str) -> ReferenceScoreTable:
    """The table of batches that :func:`score_batch` scored; a pair's epochs that no batch has are NaN."""
    batches = list(scored)
    num_epochs = 1 + max(index.epoch for indices, _ in batches for index in indices)
    errors = torch.full((num_pairs, num_epochs, 2, 2), torch.nan)
    for indices, batch_errors in batches:
        errors[[index.row for index in indices], [index.epoch for index in indices]] = batch_errors
    return ReferenceScoreTable(errors, key)


def score_reference(
    live: Reference, source: PairSource, loop: LoopSettings, seed: int, key: str, device: torch.device
) -> ReferenceScoreTable:
    """Scores of all samples that the steps of ``loop`` will use, computed in this process in the batches of its processes."""
    count = len(source.ids)
    steps = (
        batches_of_step(source.schedule, seed, step, loop.batch_size, loop.num_processes) for step in range(loop.steps)
    )
    scored = ((indices, score_batch(live, source, indices, device)) for batches in steps for indices in batches)
    return table_of(count, scored, key)


def save_reference_scores(path: Path, table: ReferenceScoreTable) -> None:
    """Write a table atomically. Raises StorageError."""
    replace(path, save({"errors": table.errors.contiguous()}, {"key": table.key}))


def load_reference_scores(path: Path, key: str) -> ReferenceScoreTable:
    """Read a table. Raises InputError if it is unreadable or stale (computed for another ``key``)."""
    try:
        with safe_open(path, framework="pt") as stream:
            saved_key, errors = (stream.metadata() or {}).get("key", ""), stream.get_tensor("errors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: {error}", "reference scores", AGAIN) from error
    if saved_key != key:
        raise InputError(f"{path} was computed for {saved_key}", f"weights, data and noise of this run: {key}", AGAIN)
    return ReferenceScoreTable(errors, key)
