"""Rows, running means and the summary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avpref.errors import InputError
from avpref.trainer.loop import TIMESTEP_EDGES, _bucket_means
from avpref.trainer.metrics import DISPLACEMENT_WINDOW, MetricLog, add_displacement, summarise


def test_summary_is_the_mean_of_the_last_quarter() -> None:
    rows = [
        {"step": k, "loss": float(k), "chosen_shift_video": 0.1 * k, "displacement_alarm": k > 8} for k in range(1, 11)
    ]
    summary = summarise(rows)
    assert summary.steps == 10
    assert summary.loss == pytest.approx((8 + 9 + 10) / 3)
    assert summary.displacement.video == pytest.approx(0.9)
    assert summary.displacement.audio is None and summary.drift.video is None
    assert summary.alarms == 2


def test_displacement_is_a_running_mean_over_the_window() -> None:
    rows: list[dict[str, float]] = []
    for step in range(1, 2 * DISPLACEMENT_WINDOW + 1):
        rows.append(add_displacement({"step": step, "chosen_shift_audio": float(step)}, rows, alarm=60.0))
    assert rows[9]["displacement_audio"] == pytest.approx(5.5)
    assert rows[-1]["displacement_audio"] == pytest.approx(DISPLACEMENT_WINDOW * 1.5 + 0.5)
    assert [row["displacement_alarm"] for row in rows] == [row["displacement_audio"] > 60.0 for row in rows]
    assert add_displacement({"step": 1, "loss": 1.0}, [], 0.1) == {"step": 1, "loss": 1.0}


def test_the_file_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    with MetricLog(tmp_path, 0, is_writer=True) as log:
        log.write([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 0.1 + 0.2}], {"x/t": 1.0})
        log.write([{"step": 3, "loss": 1.0}], {})
    with MetricLog(tmp_path, 2, is_writer=True) as log:
        assert log.rows == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 0.1 + 0.2}]
        log.write([{"step": 3, "loss": 9.0}], {})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3 and "9.0" in lines[-1]
    assert list((tmp_path / "tensorboard").iterdir())


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with MetricLog(tmp_path, 0, is_writer=False) as log:
        log.write([{"step": 1, "loss": 3.0}], {})
    assert log.rows and not list(tmp_path.iterdir())


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(InputError):
        MetricLog(tmp_path, 2, is_writer=True)


def test_bucket_curves_are_means_of_the_samples_in_them() -> None:
    sums = torch.zeros(2, len(TIMESTEP_EDGES) + 1)
    sums[:, 0], sums[:, 7] = torch.tensor([6.0, 3.0]), torch.tensor([1.0, 1.0])
    assert _bucket_means(["loss"], sums) == {"loss/t_0.000": 2.0, "loss/t_0.875": 1.0}
