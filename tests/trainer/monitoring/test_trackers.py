"""Curves in MLflow and Weights & Biases without a network; the packages are an extra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from avpref.errors import ConfigError
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.monitoring.trackers import EXPERIMENT, MLFLOW_URI, WANDB_MODE, open_trackers

MakeJob = Callable[..., TrainingJob]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_an_absent_package_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (name, f"{name}.entities", f"{name}.tracking"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"tracker {name}") as caught:
        open_trackers([name], tmp_path)  # type: ignore[list-item]
    assert "avpref[trackers]" in caught.value.fix


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_training_is_one_run_of_mlflow(dpo_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv(MLFLOW_URI, raising=False)
    for steps in (4, 6):
        job = dpo_job("tracked", steps=steps, trackers=["mlflow"])
        launch(job)
    client = tracking.MlflowClient(f"sqlite:///{job.output.absolute() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [2, 3, 4, 6]
    assert "tokens_per_s" in run.data.metrics and any(name.startswith("loss/t_") for name in run.data.metrics)


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_writes_a_run_offline(dpo_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv(WANDB_MODE, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    job = dpo_job("tracked", trackers=["wandb"])
    launch(job)
    (folder,) = (job.output / "wandb").glob("offline-run-*")
    (record,) = folder.glob("run-*.wandb")
    assert b"tokens_per_s" in record.read_bytes()
