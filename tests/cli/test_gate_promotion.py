"""gate promote, approve, reject, rollback, serving, list, history and check --replay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "prefect", "ray")


def test_promote_then_list_serving_history_and_rollback(call, decided_run, tmp_path):
    for name in ("one", "two"):
        run = decided_run(tmp_path, name)
        answer = call("gate", "promote", "--run", name, "--runs", tmp_path, "--by", "ada", "--json")
        assert answer.code == 0 and answer.document["move"]["run_id"] == run.run_id
    (row,) = call("gate", "list", "--runs", tmp_path, "--json").document["serving"]
    assert (row["alias"], row["run_id"], row["by"], row["number"]) == ("serving", run.run_id, "ada", 2)
    served = call("gate", "serving", "--runs", tmp_path, "--json").document
    assert Path(served["adapter_path"]).is_dir() and Path(served["checkpoint_path"]).is_file()
    assert call("gate", "rollback", "--runs", tmp_path, "--reason", "hums").code == 0
    moves = call("gate", "history", "--runs", tmp_path, "--json").document["moves"]
    assert [move["action"] for move in moves] == ["promote", "promote", "rollback"]
    assert moves[2]["reason"] == "hums" and moves[2]["adapter"] == moves[0]["adapter"]
    assert "hums" in call("gate", "history", "--runs", tmp_path).out
    again = call("gate", "rollback", "--runs", tmp_path)
    assert (again.code, again.out) == (4, "") and "nothing served" in again.err


def test_a_refused_run_ends_with_exit_code_3_and_an_override_needs_a_reason(call, decided_run, tmp_path):
    decided_run(tmp_path, "worse", gain=-1.0)
    refused = call("gate", "promote", "--runs", tmp_path)
    assert (refused.code, refused.out) == (3, "") and "--override" in refused.err
    assert call("gate", "promote", "--runs", tmp_path, "--override").code == 2
    moved = call("gate", "promote", "--runs", tmp_path, "--override", "--reason", "a demonstration", "--json")
    assert moved.code == 0 and moved.document["move"]["is_override"]


def test_approval_is_asked_for_listed_and_given(call, decided_run, tmp_path):
    run = decided_run(tmp_path, "one", given=["promotion.approval=required", "promotion.alias=canary"])
    waiting = call("gate", "promote", "--runs", tmp_path)
    assert waiting.code == 3 and "avpref gate approve" in waiting.err
    listed = call("gate", "list", "--runs", tmp_path, "--json").document
    assert listed == {
        "schema_version": 2,
        "serving": [],
        "awaiting_approval": [{"run_id": run.run_id, "alias": "canary"}],
    }
    assert "awaiting approval" in call("gate", "list", "--runs", tmp_path).out
    assert call("gate", "approve", run.run_id, "--runs", tmp_path).code == 2  # nobody is named
    assert call("gate", "approve", run.run_id, "--runs", tmp_path, "--by", "grace").code == 0
    assert call("gate", "serving", "--alias", "canary", "--runs", tmp_path, "--json").document["move"]["by"] == "grace"
    assert call("gate", "list", "--runs", tmp_path, "--json").document["awaiting_approval"] == []


def test_a_rejected_run_is_refused_by_name(call, decided_run, tmp_path):
    run = decided_run(tmp_path, "one")
    said = call("gate", "reject", run.run_id, "--runs", tmp_path, "--by", "ada", "--reason", "hums", "--json")
    assert said.code == 0 and said.document["approval"]["by"] == "ada"
    refused = call("gate", "promote", "--runs", tmp_path)
    assert refused.code == 3 and "ada rejected" in refused.err and "hums" in refused.err


def test_a_replay_agrees_and_a_forged_decision_does_not(call, decided_run, tmp_path):
    run = decided_run(tmp_path, "one")
    (path,) = (run.root / "decisions").iterdir()
    for given in ((), (path.stem,), (path.stem[:6],)):
        answer = call("gate", "check", "--replay", *given, "--runs", tmp_path, "--json")
        assert (answer.code, answer.document["agrees"]) == (0, True)
        assert answer.document["decision_id"] == path.stem
    document = json.loads(path.read_text())
    document["evaluation"]["sync"]["ci_low"] += 1.0
    path.write_text(json.dumps(document))
    answer = call("gate", "check", "--replay", "--runs", tmp_path)
    assert answer.code == 4 and "NOT the same" in answer.out and "ci_low" in answer.out
    unknown = call("gate", "check", "--replay", "gnothing", "--runs", tmp_path)
    assert unknown.code == 4 and path.stem in unknown.err


def test_a_replay_of_a_real_run_agrees(call, runs, tiny_run):
    answer = call("gate", "check", "--replay", "--runs", runs, "--json")
    assert answer.document["agrees"] and answer.document["changed_inputs"] == []
    assert answer.document["verdict"] == tiny_run.documents.read("evaluation.json")["gate"]["verdict"]
    assert answer.document["evaluation"] == tiny_run.documents.read("evaluation.json")["evaluation"]


def test_a_tampered_table_is_named_with_its_hash(call, decided_run, tmp_path):
    run = decided_run(tmp_path, "one")
    path = next((run.root / "tables" / "evaluations").glob("*.parquet"))
    path.write_bytes(path.read_bytes() + b"x")
    for command in (("check", "--replay"), ("promote",)):
        answer = call("gate", *command, "--runs", tmp_path)
        assert answer.code == 4 and path.name in answer.err and "sha-256" in answer.err


def test_a_decision_that_does_not_compare_with_what_serves_says_so(call, decided_run, tmp_path):
    first = decided_run(tmp_path, "one")
    assert call("gate", "check", "--run", "one", "--runs", tmp_path, "--json").document["warnings"] == []
    call("gate", "promote", "--run", "one", "--runs", tmp_path)
    assert call("gate", "check", "--run", "one", "--runs", tmp_path, "--json").document["warnings"] == []
    decided_run(tmp_path, "two")
    answer = call("gate", "check", "--run", "two", "--runs", tmp_path)
    assert answer.code == 0 and "warning: serving is adapter" in answer.err and first.run_id in answer.err


def test_nothing_serves_yet(call, decided_run, tmp_path):
    decided_run(tmp_path, "one")
    for command in ("serving", "rollback"):
        answer = call("gate", command, "--runs", tmp_path)
        assert answer.code == 4 and "nothing serves" in answer.err
    assert call("gate", "serving", "--alias", "../x", "--runs", tmp_path).code == 2


@pytest.mark.parametrize("command", [["promote"], ["list"], ["history"], ["serving"], ["check", "--replay"]])
def test_looking_and_moving_load_neither_torch_nor_prefect(decided_run, tmp_path, command):
    decided_run(tmp_path, "one")
    code = (
        "import sys, avpref.cli.main\n"
        "for given in (['promote'], sys.argv[1:]):\n"
        f"    try: avpref.cli.main.main(['gate', *given, '--runs', {str(tmp_path)!r}])\n"
        "    except SystemExit as ended: assert not ended.code, ended.code\n"
        f"sys.stderr.write(repr([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert found.stderr.endswith("[]"), found.stderr
