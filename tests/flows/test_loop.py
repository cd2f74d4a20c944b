"""The whole loop: its files and documents, and a second execution that has nothing to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from avpref.config.data_settings import ToyWorldPrompts
from avpref.datasets import tables
from avpref.domain import SCHEMA_VERSION
from avpref.execution import run_units as stage_module
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.run_result import OF_ONE_EXECUTION
from avpref.flows.run_stages import STAGES
from avpref.flows.stages.generate import generate
from avpref.flows.stages.train import train
from avpref.storage.local_files import TEMPORARY_PREFIX
from avpref.storage.run_folder import RESULT_FILE, RunFolder

Marks = Callable[[Path], dict[str, object]]


def refuse(*arguments: object, **keywords: object) -> None:
    raise AssertionError("work was done again")


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on opening a pool or launching a training is an error."""
    monkeypatch.setattr(stage_module, "open_pool", refuse)
    monkeypatch.setattr("avpref.flows.stages.sft.launch_training", refuse)
    monkeypatch.setattr("avpref.flows.stages.train.launch_training", refuse)


def test_the_result_document_holds_the_results_of_the_stages(tiny_run: RunFolder) -> None:
    document = json.loads((tiny_run.root / RESULT_FILE).read_text())
    assert document["schema_version"] == SCHEMA_VERSION
    assert (document["run_id"], document["seed"]) == (tiny_run.run_id, tiny_run.settings.run.seed)
    assert [each["name"] for each in document["stages"]] == [*[each.name for each in STAGES], "report"]
    assert isinstance(tiny_run.settings.prompts, ToyWorldPrompts)
    assert document["pairs"]["prompts"] == tiny_run.settings.prompts.num_prompts
    assert document["pairs"]["kept"] == tiny_run.tables.num_rows(tables.PAIRS) > 0
    assert set(document["evaluation"]) == {"video", "audio", "sync"}
    assert document["gate"]["verdict"] in ("promote", "refuse")
    assert document["quarantined"] == 0
    assert document["training"]["steps"] == tiny_run.settings.dpo.loop.steps


def test_every_sealed_file_has_the_hash_that_its_manifest_says(tiny_run: RunFolder) -> None:
    sealed = [manifest for table in tables.TABLES if (manifest := tiny_run.tables.current(table.name))]
    assert {"prompts", "candidates", "scores", "norms", "rewards", "pairs", "evaluations", "gate_decisions"} <= {
        manifest.table for manifest in sealed
    }
    for manifest in sealed:
        tiny_run.tables.store.verify(manifest)


def test_nothing_temporary_is_left(tiny_run: RunFolder) -> None:
    assert not list(tiny_run.root.rglob(f"{TEMPORARY_PREFIX}*"))


def test_every_table_reads_back_under_its_schema_and_joins(tiny_run: RunFolder) -> None:
    candidates = set(tiny_run.tables.read(tables.CANDIDATES)["candidate_id"].to_pylist())
    pairs = tiny_run.tables.read(tables.PAIRS)
    assert set(pairs["chosen"].to_pylist()) | set(pairs["rejected"].to_pylist()) <= candidates
    assert set(tiny_run.tables.read(tables.SCORES)["candidate_id"].to_pylist()) == candidates
    for row in tiny_run.tables.read(tables.CANDIDATES).to_pylist():
        assert (tiny_run.root / row["path"]).exists() and row["sha256"][:8] in row["path"]


def test_an_unchanged_second_run_does_nothing(
    tiny_copy: Callable[..., RunFolder], finished_marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_copy()
    before, document = finished_marks(folder.root), json.loads((folder.root / RESULT_FILE).read_text())
    shown = [(folder.root / name).stat().st_mtime_ns for name in (RESULT_FILE, "report.html")]
    no_work(monkeypatch)
    again = run_loop(folder).document()
    assert finished_marks(folder.root) == before
    assert shown == [(folder.root / name).stat().st_mtime_ns for name in (RESULT_FILE, "report.html")]
    assert document["changed"] and not again["changed"]
    assert all(stage["made"] == stage["reused"] == 0 for stage in again["stages"])
    num_candidates = folder.tables.num_rows(tables.CANDIDATES)
    assert f"generate: {num_candidates} of {num_candidates} candidates present" in again["why"]
    changing = OF_ONE_EXECUTION
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in document.items() if k not in changing
    }


def test_only_the_result_is_made_again_where_only_the_result_is_missing(
    tiny_copy: Callable[..., RunFolder], finished_marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_copy("result")
    before = finished_marks(folder.root)
    no_work(monkeypatch)
    run_loop(folder)
    assert before.items() <= finished_marks(folder.root).items()
    assert (folder.root / RESULT_FILE).exists() and (folder.root / "report.html").exists()


def test_a_lost_unit_is_made_again_alone_and_with_the_same_rows(
    tiny_copy: Callable[..., RunFolder], finished_marks: Marks
) -> None:
    folder = tiny_copy()
    lost = sorted((folder.root / "units" / "generate").rglob("*.parquet"))[3]
    content = pq.read_table(lost).drop_columns("elapsed_s")  # the one column that depends on the clock
    lost.unlink()
    before = finished_marks(folder.root)
    generate.fn(Run.of(folder))
    assert pq.read_table(lost).drop_columns("elapsed_s").equals(content)
    after = finished_marks(folder.root)
    del after[str(lost.relative_to(folder.root))]
    assert after == before


@pytest.mark.parametrize("has_weights", [True, False])
def test_a_training_without_a_summary_is_not_finished_and_ends_with_the_same_bytes(
    tiny_copy: Callable[..., RunFolder], has_weights: bool
) -> None:
    """The summary is written last: a run that died before it goes on from the last checkpoint, weights or no weights."""
    folder = tiny_copy()
    (output,) = folder.root.glob("models/dpo-*")
    adapter, summary = output / "adapter" / "adapter_model.safetensors", output / "summary.json"
    weights, recorded = adapter.read_bytes(), json.loads(summary.read_text())
    summary.unlink()
    if not has_weights:
        adapter.unlink()
    train.fn(Run.of(folder))
    assert adapter.read_bytes() == weights
    assert json.loads(summary.read_text()) == recorded
