"""pairs export and import, adapters list, export and card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avpref.cli.actions.exchange import export_adapters, export_pairs
from avpref.datasets import tables
from avpref.flows.run import Run
from avpref.registry import promotion
from avpref.storage.run_folder import open_run

TINY = str(Path(__file__).parents[2] / "configs" / "tiny.yaml")


@pytest.fixture
def sft(tiny_run) -> str:
    weights = {"kind": "weights", "network": str(Run.of(tiny_run).sft.checkpoint), "dtype": "float32"}
    return f"sft={json.dumps(weights)}"


def test_pairs_leave_and_come_back(call, runs, tiny_run, sft, tmp_path):
    answer = call("pairs", "export", tmp_path / "out", "--runs", runs, "--json")
    document = answer.document
    assert answer.code == 0 and document["num_pairs"] == tiny_run.tables.num_rows(tables.PAIRS)
    assert document["files"][0]["name"] == "train/metadata.jsonl" and "pushed" not in document
    command = ("pairs", "import", tmp_path / "out", "--config", TINY, "--runs", tmp_path / "runs", "--set", sft)
    imported = call(*command, "--set", "prompts.held_out_share=0.1", "--json")
    assert imported.code == 0, imported.err
    assert sum(imported.document["pairs"].values()) == document["num_pairs"]
    assert imported.document["refused"] == imported.document["quarantined"] == []
    run = open_run(tmp_path / "runs", imported.document["run_id"])
    assert imported.document["clips"] == len(list((run.root / "clips").rglob("*.mp4")))
    assert imported.document["next"] == f"avpref runs resume {run.run_id} --runs {tmp_path / 'runs'}"
    text = call(*command, "--set", "prompts.held_out_share=0.1")
    assert text.code == 0 and "next: avpref runs resume" in text.out


def test_refused_rows_are_listed_with_exit_code_5(call, runs, sft, tmp_path):
    call("pairs", "export", tmp_path / "out", "--runs", runs, "--format", "csv")
    path = tmp_path / "out" / "pairs.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1], "gone.mp4,also.mp4,a text,x,all,"]))
    answer = call("pairs", "import", path, "--config", TINY, "--runs", tmp_path / "runs", "--set", sft)
    assert answer.code == 5
    assert "the same pair as row 2" in answer.out and "no such file" in answer.out


def test_an_import_needs_a_trained_network(call, runs, tmp_path):
    call("pairs", "export", tmp_path / "out", "--runs", runs)
    answer = call("pairs", "import", tmp_path / "out", "--config", TINY, "--runs", tmp_path / "runs")
    assert answer.code == 2 and "sft.kind weights" in answer.err
    assert not (tmp_path / "runs").exists()
    missing = call("pairs", "import", tmp_path / "gone", "--config", TINY, "--runs", tmp_path / "runs")
    assert missing.code == 2


def test_an_export_into_a_folder_with_files_is_refused(call, runs, tmp_path):
    (tmp_path / "mine").write_text("kept")
    answer = call("pairs", "export", tmp_path, "--runs", runs)
    assert answer.code == 4 and "exists already" in answer.err


def test_nothing_is_uploaded_unless_asked(call, own_runs, tmp_path, monkeypatch):
    sent = []

    def upload(folder, target):
        sent.append((folder, target))
        return "the commit"

    for module in (export_pairs, export_adapters):
        monkeypatch.setattr(module, "upload", upload)
    promotion.promote(own_runs, reason="test", by="test", override=True)
    call("pairs", "export", tmp_path / "one", "--runs", own_runs)
    call("adapters", "export", "--runs", own_runs, "--out", tmp_path / "two")
    assert sent == []
    pairs = call("pairs", "export", tmp_path / "three", "--runs", own_runs, "--push", "me/pairs", "--json")
    assert pairs.document["pushed"] == "the commit"
    call("adapters", "export", "--runs", own_runs, "--out", tmp_path / "four", "--push", "me/adapter", "--public")
    kinds = [(folder.name, target.repo_id, target.repo_type, target.is_private) for folder, target in sent]
    assert kinds == [("three", "me/pairs", "dataset", True), ("four", "me/adapter", "model", False)]


def test_adapters_are_listed_exported_and_described(call, own_runs, own_run, tmp_path):
    move = promotion.promote(own_runs, reason="test", by="test", override=True)
    (row,) = call("adapters", "list", "--runs", own_runs, "--json").document["adapters"]
    assert (row["adapter"], row["run_id"], row["serves_as"]) == (move.adapter, own_run.run_id, "serving")
    assert row["rank"] == own_run.settings.dpo.adapter.rank and Path(row["path"]).is_dir()
    assert move.adapter in call("adapters", "list", "--runs", own_runs).out
    answer = call("adapters", "export", "--runs", own_runs, "--out", tmp_path / "out", "--layout", "comfyui", "--json")
    assert answer.code == 0 and "avpref_lora.safetensors" in answer.document["files"]
    card = call("adapters", "card", move.adapter, "--runs", own_runs, "--base-model", "owner/base")
    assert card.code == 0 and "base_model: owner/base" in card.out and "None are enclosed." in card.out
    card = call("adapters", "card", move.adapter, "--runs", own_runs, "--base-model", "owner/base", "--json")
    assert "base_model: owner/base" in card.document["card"]


def test_an_adapter_that_does_not_exist(call, own_runs, tmp_path):
    answer = call("adapters", "export", "nothing", "--runs", own_runs, "--out", tmp_path / "out")
    assert answer.code == 4 and "avpref adapters list" in answer.err
    assert not (tmp_path / "out").exists()
