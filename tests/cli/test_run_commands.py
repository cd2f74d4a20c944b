"""runs list, show, resume, and commands that run a single stage."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from avpref.cli.views import run_state
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import SCHEMA_VERSION

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "tiny.yaml")


def test_list_says_what_each_run_is(call, own_runs, own_run):
    (row,) = call("runs", "list", "--runs", own_runs, "--json").document["runs"]
    assert row == {
        "run_id": own_run.run_id,
        "seed": own_run.settings.run.seed,
        "round": 1,
        "state": "finished",
        "pairs": own_run.tables.num_rows(tables.PAIRS),
        "verdict": own_run.documents.read("result.json")["gate"]["verdict"],
    }


def test_a_run_that_stopped_names_its_next_stage(call, own_runs, own_run):
    (own_run.root / "result.json").unlink()
    for folder in own_run.root.glob("models/dpo-*"):
        folder.rename(own_run.root / "elsewhere")
    (row,) = call("runs", "list", "--runs", own_runs, "--json").document["runs"]
    assert row["state"] == "next: train"


def test_a_run_that_works_is_in_use(own_run):
    (own_run.root / "result.json").unlink()
    with own_run.locked():
        assert run_state.state(own_run) == run_state.IN_USE
    assert run_state.state(own_run) != run_state.IN_USE
    with own_run.locked():  # looking did not keep the lock
        pass


def test_looking_does_not_end_the_owners_lock(own_run):
    with own_run.locked():
        run_state.state(own_run)
        handle = os.open(own_run.root / "lock", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)


@pytest.mark.parametrize(
    ("run_file", "config_file", "reason"),
    [
        ('{"schema_version": 99}', None, "99"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', None, "config.yaml"),
        ("no JSON", None, "run.json"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "clip: 3", "clip"),
    ],
)
def test_a_damaged_run_is_listed_with_the_reason(call, own_runs, run_file, config_file, reason):
    broken = own_runs / "broken"
    broken.mkdir()
    (broken / "run.json").write_text(run_file)
    if config_file:
        (broken / "config.yaml").write_text(config_file)
    answer = call("runs", "list", "--runs", own_runs, "--json")
    assert (answer.code, len(answer.document["runs"])) == (0, 2)
    (row,) = [row for row in answer.document["runs"] if row["run_id"] == "broken"]
    assert row["state"].startswith("unreadable") and reason in row["state"]


def test_an_empty_folder_has_no_runs_and_says_how_to_make_one(call, tmp_path):
    answer = call("runs", "list", "--runs", tmp_path, "--json")
    assert (answer.code, answer.document["runs"]) == (0, [])
    assert "avpref retrain" in answer.err


@pytest.mark.parametrize("command", [["runs", "list"], ["runs", "show"], ["runs", "resume"], ["pairs", "show"]])
def test_a_missing_folder_is_missing_input(call, tmp_path, command):
    answer = call(*command, "--runs", tmp_path / "none")
    assert answer.code == 4
    assert "expected:" in answer.err and "fix:" in answer.err


def test_an_unknown_run_names_those_that_exist(call, runs, tiny_run):
    answer = call("runs", "show", "nothing", "--runs", runs)
    assert answer.code == 4
    assert tiny_run.run_id in answer.err


def test_the_beginning_of_an_id_is_enough(call, runs, tiny_run):
    document = call("runs", "show", tiny_run.run_id[:6], "--runs", runs, "--json").document
    assert document["run_id"] == tiny_run.run_id


def test_show_has_every_stage_and_table_of_a_finished_run(call, runs, tiny_run):
    document = call("runs", "show", "--runs", runs, "--json").document
    assert all(stage["is_done"] for stage in document["stages"])
    assert document["tables"]["scores"] == tiny_run.tables.num_rows(tables.SCORES)
    assert document["result"] == tiny_run.documents.read("result.json")
    assert document["lineage"]["tables"]["pairs"] == tiny_run.tables.current("pairs").version
    assert document["lineage"]["models"]["sft"] and document["lineage"]["models"]["train"]


def test_what_stages_leave_is_found_under_its_real_name(tiny_run):
    from avpref.trainer.adapter_files import WEIGHTS_FILE
    from avpref.trainer.run_job import ADAPTER_FOLDER, NETWORK_FILE

    assert run_state.SFT_NETWORK.endswith(f"/{NETWORK_FILE}")
    assert run_state.ADAPTER.endswith(f"/{ADAPTER_FOLDER}/{WEIGHTS_FILE}")
    assert all(stage.is_done for stage in run_state.stages(tiny_run))


def test_show_lists_the_quarantine_with_reasons(call, own_runs, own_run):
    row = QuarantineRow("c1", "score", "MediaError", "no picture", 1)
    own_run.documents.write("quarantine-score.json", [vars(row)])
    answer = call("runs", "show", "--runs", own_runs, "--json")
    assert answer.document["quarantine"] == [vars(row)]
    assert "no picture" in call("runs", "show", "--runs", own_runs).out


def test_resume_of_a_finished_run_recomputes_nothing_and_gives_the_same_answer(call, own_runs, own_run):
    before = own_run.documents.read("result.json")
    units = {path: path.stat().st_mtime_ns for path in (own_run.root / "units").rglob("*.parquet")}
    answer = call("runs", "resume", own_run.run_id, "--runs", own_runs, "--json")
    assert answer.code == (0 if before["gate"]["verdict"] == "promote" else 3)
    found = answer.document
    assert {key: found[key] for key in ("pairs", "training", "evaluation", "gate")} == {
        key: before[key] for key in ("pairs", "training", "evaluation", "gate")
    }
    assert {path: path.stat().st_mtime_ns for path in (own_run.root / "units").rglob("*.parquet")} == units


STAGE_COMMANDS = [["candidates", "sample"], ["candidates", "score"], ["train", "run"], ["eval", "run"]]


@pytest.mark.parametrize("command", STAGE_COMMANDS, ids=" ".join)
def test_a_finished_stage_is_not_run_again(call, own_runs, own_run, command):
    files = sorted(path for path in own_run.root.rglob("*.mp4"))
    answer = call(*command, "--runs", own_runs, "--json")
    assert answer.code == 0
    assert answer.document["run_id"] == own_run.run_id
    assert sorted(path for path in own_run.root.rglob("*.mp4")) == files


def test_stage_commands_report_what_the_run_has(call, own_runs, own_run):
    sampled = call("candidates", "sample", "--runs", own_runs, "--json").document
    assert sampled["candidates"] == own_run.tables.num_rows(tables.CANDIDATES)
    trained = call("train", "run", "--runs", own_runs, "--json").document
    assert trained["steps"] == own_run.settings.dpo.loop.steps
    assert (own_run.root / trained["adapter"]).is_dir()
    evaluated = call("eval", "run", "--runs", own_runs, "--json").document
    assert evaluated["evaluation"] == own_run.documents.read("evaluation.json")["evaluation"]
    assert "gate" in call("eval", "run", "--runs", own_runs).out


def test_what_a_stage_lost_makes_the_exit_code_5(call, own_runs, own_run):
    victim = next(own_run.root.glob("clips/*/*.mp4"))
    victim.write_bytes(b"no clip")
    scored = own_run.root / "units" / "score"
    scored.rename(own_run.root / "old-scores")
    answer = call("candidates", "score", "--runs", own_runs, "--json")
    assert answer.code == 5
    (lost,) = answer.document["quarantined"]
    assert victim.name.startswith(lost["candidate_id"]) and "sha-256" in lost["message"]


def test_a_stage_before_its_input_is_missing_input(call, tmp_path):
    from avpref.config.loading import load_config
    from avpref.storage.run_folder import create

    create(tmp_path, load_config(TINY).settings)
    for command in STAGE_COMMANDS:
        answer = call(*command, "--runs", tmp_path)
        assert answer.code == 4
        assert "avpref runs resume" in answer.err


def test_a_run_in_use_is_left_alone(call, own_runs, own_run):
    with own_run.locked():
        answer = call("candidates", "sample", "--runs", own_runs)
    assert answer.code == 1
    assert "in use" in answer.err


def test_retrain_dry_run_counts_and_touches_nothing(call, tmp_path):
    answer = call("retrain", "--config", TINY, "--runs", tmp_path / "runs", "--dry-run", "--json")
    assert answer.code == 0
    assert {stage["name"] for stage in answer.document["stages"]} >= {"prompts", "sft", "generate", "train", "evaluate"}
    assert not (tmp_path / "runs").exists()
    assert json.dumps(answer.document)


def test_a_run_of_another_version_is_resumed_only_when_it_is_adopted(call, own_runs, own_run):
    path = own_run.root / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "0.0.9"}))
    answer = call("runs", "resume", own_run.run_id, "--runs", own_runs)
    assert answer.code == 4
    assert "0.0.9" in answer.err and "--adopt-version" in answer.err
    assert call("runs", "show", own_run.run_id, "--runs", own_runs).code == 0
    assert call("runs", "resume", own_run.run_id, "--runs", own_runs, "--adopt-version").code in (0, 3)
    assert json.loads(path.read_text())["earlier_versions"] == ["0.0.9"]


def test_a_table_that_was_changed_is_missing_input_with_both_hashes(call, own_runs, own_run):
    manifest = own_run.tables.current("pairs")
    (path,) = (own_run.root / "tables" / name for name in own_run.tables.store.names(manifest))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for command in (["pairs", "show"], ["runs", "resume"]):
        answer = call(*command, "--runs", own_runs)
        assert answer.code == 4
        assert str(path) in answer.err and manifest.files[0].sha256 in answer.err
