"""Training metrics: one JSON line per step, curves in TensorBoard and trackers, the displacement alarm and a summary.

Implicit accuracy says little about preference training; displacement shows whether the chosen clips themselves became less likely.
Lines contain no times, so equal trainings give equal files. On resume the file is truncated to the checkpoint's step.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from avpref.config.training.monitoring_settings import TrackerName
from avpref.errors import InputError, StorageError
from avpref.storage.local_files import replace, storage_errors
from avpref.trainer.monitoring.trackers import Tracker, open_trackers

LOG = logging.getLogger("avpref.trainer")
METRICS_FILE = "metrics.jsonl"
DISPLACEMENT_WINDOW = 50
MODALITIES = ("video", "audio")

MetricRow = dict[str, float]


@dataclass(frozen=True)
class PerModality:
    """One number per modality; None for an absent modality or a metric that this training lacks."""

    video: float | None
    audio: float | None


@dataclass(frozen=True)
class TrainingSummary:
    """Means over the last quarter of the steps. Errors are mean squared velocity errors.

    displacement: policy minus reference error on chosen clips (above 0: chosen clips became less likely); drift: mean square of
    policy minus reference velocity; implicit_accuracy: share of pairs with D_policy < D_reference; alarms: steps with an alarm.
    """

    steps: int
    loss: float
    displacement: PerModality
    drift: PerModality
    implicit_accuracy: PerModality
    alarms: int

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)


def summarise(rows: Sequence[Mapping[str, float]]) -> TrainingSummary:
    """Summary of the rows of a training; ``rows`` must not be empty."""
    tail = rows[len(rows) - math.ceil(len(rows) / 4) :]

    def means(name: str) -> PerModality:
        video, audio = (_mean(tail, f"{name}_{modality}") for modality in MODALITIES)
        return PerModality(video, audio)

    loss = _mean(tail, "loss")
    assert loss is not None, "every row has a loss"
    alarms = sum(bool(row.get("displacement_alarm")) for row in rows)
    return TrainingSummary(len(rows), loss, means("chosen_shift"), means("drift"), means("implicit_accuracy"), alarms)


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return math.fsum(values) / len(values) if values else None


def add_displacement(row: MetricRow, earlier: Sequence[Mapping[str, float]], alarm: float) -> MetricRow:
    """``row`` with the running mean of ``chosen_shift`` over the last 50 steps, and whether it exceeds ``alarm``."""
    window = [*earlier[-(DISPLACEMENT_WINDOW - 1) :], row]
    running = {f"displacement_{m}": _mean(window, f"chosen_shift_{m}") for m in MODALITIES}
    present = {name: value for name, value in running.items() if value is not None}
    return row | present | {"displacement_alarm": max(present.values()) > alarm} if present else row


class MetricLog:
    """The rows of a training: in memory on every rank, in ``metrics.jsonl``, TensorBoard and ``trackers`` on the writing rank."""

    def __init__(
        self, folder: Path, resumed_step: int, *, is_writer: bool, trackers: Sequence[TrackerName] = ()
    ) -> None:
        self.rows: list[MetricRow] = _rows_until(folder / METRICS_FILE, resumed_step)
        self._path = folder / METRICS_FILE
        self._stream: Any = None
        self._curves: Any = None
        self._is_writer = is_writer
        self._tracker_names, self._trackers = trackers, list[Tracker]()

    def __enter__(self) -> Self:
        if self._is_writer:
            from torch.utils.tensorboard.writer import SummaryWriter

            replace(self._path, "".join(_line(row) for row in self.rows).encode())
            with storage_errors(self._path):
                self._stream = open(self._path, "a", encoding="utf-8")
                self._curves = SummaryWriter(str(self._path.parent / "tensorboard"), purge_step=len(self.rows) + 1)
            self._trackers = open_trackers(self._tracker_names, self._path.parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_writer:
            return
        for stream in (self._stream, self._curves, *self._trackers):
            try:
                with storage_errors(self._path):
                    stream.close()
            except StorageError:
                if value is None:  # an error of the block takes precedence
                    raise

    def write(self, rows: Sequence[MetricRow], curves: Mapping[str, float]) -> None:
        """Append the rows of consecutive steps; ``curves`` are further values of the last step, for TensorBoard only.

        Raises StorageError.
        """
        for row in rows:
            if row.get("displacement_alarm") and not (self.rows and self.rows[-1].get("displacement_alarm")):
                running = {key: value for key, value in row.items() if key.startswith("displacement_")}
                LOG.warning("displacement alarm at step %d: chosen clips became less likely, %s", row["step"], running)
            self.rows.append(row)
        if not self._is_writer:
            return
        with storage_errors(self._path):
            self._stream.writelines(_line(row) for row in rows)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            step = int(rows[-1]["step"])
            values = {name: value for name, value in (rows[-1] | dict(curves)).items() if name != "step"}
            for name, value in values.items():
                self._curves.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.log(step, values)


def _line(row: MetricRow) -> str:
    return json.dumps(row) + "\n"


def _rows_until(path: Path, step: int) -> list[MetricRow]:
    """Rows of steps 1..step. Raises InputError for missing rows; later lines, complete or not, are ignored."""
    if step == 0:
        return []
    lines = path.read_text(encoding="utf-8").splitlines()[:step] if path.exists() else []
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError as error:
        raise InputError(
            f"{path}: {error}", "one JSON object per line", f"delete {path.parent} and train again"
        ) from error
    if [row.get("step") for row in rows] != list(range(1, step + 1)):
        raise InputError(
            f"{path} holds {len(rows)} rows", f"steps 1 to {step}", f"delete {path.parent} and train again"
        )
    return rows
