"""A command reads its configuration file once, however many stages it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from avpref.config import loading
from avpref.flows.curate import curate
from avpref.flows.evaluate_run import evaluate_run
from avpref.flows.retrain import resume, retrain
from avpref.storage.run_folder import RunFolder, open_root

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The configuration files that are read from here on, in order."""
    paths: list[Path] = []
    read = loading._read_yaml

    def counted(path: Path) -> loading.Tree:
        paths.append(path)
        return read(path)

    monkeypatch.setattr(loading, "_read_yaml", counted)
    return paths


@pytest.fixture
def runs(tiny_run: RunFolder, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(tiny_run.root, tmp_path / tiny_run.run_id)
    return tmp_path


def test_a_whole_loop_reads_the_file_once(tiny_run: RunFolder, runs: Path, reads: list[Path]) -> None:
    document = retrain.fn(str(TINY), str(runs))
    assert reads == [TINY] and document["run_id"] == tiny_run.run_id and not document["changed"]


def test_curation_and_a_new_run_read_the_file_once(tmp_path: Path, reads: list[Path]) -> None:
    curate.fn(str(TINY), str(tmp_path))
    assert reads == [TINY]


def test_resuming_and_evaluating_read_the_runs_own_file_once(
    tiny_run: RunFolder, runs: Path, reads: list[Path]
) -> None:
    own = runs / tiny_run.run_id / "config.yaml"
    resume(open_root(own.parent))
    assert reads == [own]
    evaluate_run.fn(str(runs))
    assert reads == [own, own]


def test_a_changed_setting_is_compared_with_the_recorded_ones(
    tiny_run: RunFolder, runs: Path, reads: list[Path]
) -> None:
    own = runs / tiny_run.run_id / "config.yaml"
    evaluate_run.fn(str(runs), tiny_run.run_id, ["executor.device=cpu"])
    assert reads == [own, own]  # once for its settings, once for where the run keeps its files
