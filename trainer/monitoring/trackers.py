"""Curves in MLflow and in Weights & Biases, beside TensorBoard. Both work offline, into the training's folder.

MLflow writes to the server of ``MLFLOW_TRACKING_URI``, Weights & Biases online if ``WANDB_MODE`` says so; both are theirs to read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from avpref.config.training.monitoring_settings import TrackerName
from avpref.errors import ConfigError
from avpref.identity import digest
from avpref.storage.local_files import replace

EXPERIMENT = "avpref"
MLFLOW_URI = "MLFLOW_TRACKING_URI"
MLFLOW_RUN_FILE = "mlflow_run"
WANDB_MODE = "WANDB_MODE"


class Tracker(Protocol):
    """Receives the curves of a training."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values after ``step`` steps."""

    def close(self) -> None:
        """Finish."""


class MlflowTracker:
    """One MLflow run per training; a resumed training goes on with its run."""

    def __init__(self, folder: Path) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        store = os.environ.get(MLFLOW_URI) or f"sqlite:///{folder.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(store)
        run_file = folder / MLFLOW_RUN_FILE
        if run_file.exists():
            self._run_id = run_file.read_text().strip()
            return
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        self._run_id = self._client.create_run(experiment_id, run_name=folder.name).info.run_id
        replace(run_file, self._run_id.encode())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        now_ms = int(time.time() * 1000)
        metrics = [self._metric(_plain(name), float(value), now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics)

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._client.set_terminated(self._run_id)


class WandbTracker:
    """One Weights & Biases run per training, offline unless ``WANDB_MODE`` says otherwise; a resumed training goes on with its run."""

    def __init__(self, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=EXPERIMENT,
            dir=str(folder),
            id=digest("wandb", folder.name),
            name=folder.name,
            resume="allow",
            mode=os.environ.get(WANDB_MODE) or "offline",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._run.finish()


def open_trackers(names: Sequence[TrackerName], folder: Path) -> list[Tracker]:
    """The trackers called ``names``, for the training in ``folder``. Raises ConfigError for a package that is not installed."""
    trackers: list[Tracker] = []
    for name in names:
        try:
            match name:
                case "mlflow":
                    trackers.append(MlflowTracker(folder))
                case "wandb":
                    trackers.append(WandbTracker(folder))
        except ImportError as error:
            raise ConfigError(
                f"tracker {name}: {error}",
                f"the package {name}",
                "pip install 'avpref[trackers]', or --set 'dpo.loop.trackers=[]'",
            ) from error
    return trackers


def _plain(name: str) -> str:
    """A name of a metric that MLflow accepts: letters, digits and ``_ - . / space``."""
    return "".join(sign if sign.isalnum() or sign in "_-./ " else "_" for sign in name)
