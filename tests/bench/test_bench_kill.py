"""A benchmark that is killed goes on where it stopped, on actors as in one process, and ends with the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench_clips import write_set

pytestmark = pytest.mark.slow
NUM_CLIPS = 10
PATIENCE_S = 300.0
COLUMNS = "FD-VGG,FD-PASST,KL-PANNS-softmax"
ACTORS = ("--set", "executor.kind=ray", "--set", "executor.num_actors=2")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_set(root / "real", NUM_CLIPS)
    write_set(root / "generated", NUM_CLIPS, 0.3)
    return root


def command(clips: Path, bench: Path, *options: str) -> list[str]:
    words = ["bench", "run", "--clips", clips / "generated", "--reference", clips / "real", "--preset", "av-benchmark"]
    words += ["--columns", COLUMNS, "--scorers", "signal", "--tiny", "--bench", bench, "--json"]
    return [sys.executable, "-m", "avpref.cli.main", *map(str, words), "--set", "run.unit_candidates=2", *options]


def finished(clips: Path, bench: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(command(clips, bench, *options), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def units(bench: Path) -> list[Path]:
    return sorted((bench / "features").rglob("*.parquet"))


@pytest.mark.parametrize("options", [(), ACTORS], ids=["process", "actors"])
def test_a_killed_benchmark_resumes_and_reuses_everything(
    clips: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    bench = tmp_path / "killed"
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(command(clips, bench, *options), stdout=quiet, stderr=quiet, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_S
    while len(units(bench)) < 6 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in units(bench)}
    total = NUM_CLIPS * 4 + NUM_CLIPS * 3
    assert kept and not (bench / "result.json").exists()
    resumed = finished(clips, bench, *options)
    assert 0 < resumed["results"]["reused"] < total and sum(resumed["results"].values()) == total
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished units are left alone"
    again = finished(clips, bench, *options)
    assert again["results"] == {"computed": 0, "reused": total}
    whole = finished(clips, tmp_path / "whole")
    assert whole["results"] == {"computed": total, "reused": 0}
    assert resumed["columns"] == again["columns"] == whole["columns"]
