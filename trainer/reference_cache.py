"""Reference scores kept: four floats per (pair, draw) instead of a forward pass per step.

Draws are counter-based, so draw k of a pair has the same noise and timestep whenever it is met. Scores are computed in the same
batches as training forms them, which makes them bitwise equal to live ones on a CPU with one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avpref.errors import InputError
from avpref.storage.local_files import replace
from avpref.trainer.noise import FlowBatch, PairSource, picks_of_step
from avpref.trainer.objectives import Reference, ReferenceScores

MODALITIES = ("video", "audio")
AGAIN = "compute them again with cache_reference"


@dataclass(frozen=True)
class ScoreTable:
    """Errors [N pairs, K draws, 2 modalities (video, audio), 2 sides (chosen, rejected)], NaN where there is none, and their key.

    ``key`` is a hash of all that the numbers depend on: weights, dtype, data, law of draws, reduction.
    """

    errors: Tensor
    key: str


class CachedReference:
    """Reads the reference's errors from a table; the reference's predictions, and so the drift, are not known."""

    def __init__(self, table: ScoreTable, device: torch.device) -> None:
        self._errors = table.errors
        self._device = device

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors on the rows of ``batch``. Raises InputError where a draw is not in the table."""
        rows, draws = ([pick.row for pick in batch.picks], [pick.draw for pick in batch.picks])
        if max(draws) >= self._errors.shape[1]:
            raise InputError(f"no reference scores of draw {max(draws)}", f"{max(draws) + 1} draws", AGAIN)
        found = self._errors[rows, draws]
        present = (batch.target.video is not None, batch.target.audio is not None)
        values: list[Tensor | None] = []
        for index, is_present in enumerate(present):
            errors = found[:, index].T.flatten()
            if is_present and errors.isnan().any():
                raise InputError(
                    f"no reference scores ({MODALITIES[index]}) of some pairs of this step",
                    "all draws of the run",
                    AGAIN,
                )
            values.append(errors.to(self._device) if is_present else None)
        return ReferenceScores(values[0], values[1], None)


def score_reference(
    live: Reference, source: PairSource, seed: int, steps: int, batch_size: int, key: str, device: torch.device
) -> ScoreTable:
    """Scores of every draw that ``steps`` training steps will meet, computed batch by batch as training does."""
    num_pairs = len(source.ids)
    errors = torch.full((num_pairs, math.ceil(steps * batch_size / num_pairs), 2, 2), torch.nan)
    for step in range(steps):
        picks = picks_of_step(seed, step, batch_size, num_pairs)
        scores = live.scores(source.batch(picks).to(device))
        rows, draws = [pick.row for pick in picks], [pick.draw for pick in picks]
        for index, found in enumerate((scores.video, scores.audio)):
            if found is not None:
                errors[rows, draws, index] = found.cpu().view(2, len(picks)).T
    return ScoreTable(errors, key)


def save_scores(path: Path, table: ScoreTable) -> None:
    """Write a table, whole or not at all. Raises StorageError."""
    replace(path, save({"errors": table.errors.contiguous()}, {"key": table.key}))


def load_scores(path: Path, key: str) -> ScoreTable:
    """Read a table. Raises InputError where it is unreadable or stale: computed for another ``key``."""
    try:
        with safe_open(path, framework="pt") as stream:
            found, errors = (stream.metadata() or {}).get("key", ""), stream.get_tensor("errors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: {error}", "reference scores", AGAIN) from error
    if found != key:
        raise InputError(f"{path} was computed for {found}", f"weights, data and draws of this run: {key}", AGAIN)
    return ScoreTable(errors, found)
