"""``train sft`` saves a network with its record, and a run that starts from the file has every stage and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avpref.identity import file_sha256

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


@pytest.fixture
def saved(call, tmp_path: Path) -> Path:
    path = tmp_path / "saved.safetensors"
    answer = call(
        *("train", "sft", "--config", TINY, "--runs", tmp_path / "runs", "--seed", 5, "--set", "sft.audio_steps=0"),
        *("--save", path, "--dtype", "float16", "--json"),
    )
    assert answer.code == 0, answer.err
    assert answer.document["saved"] == str(path) and answer.document["steps"] == 12
    assert not list((tmp_path / "runs").glob("*/tables/candidates"))
    return path


def test_a_saved_network_has_a_record_and_is_where_another_run_starts(call, saved: Path, tmp_path: Path) -> None:
    record = json.loads(saved.with_suffix(".json").read_text())
    assert (record["sha256"], record["dtype"], record["seed"]) == (file_sha256(saved), "float16", 5)
    assert record["settings"]["sft"]["loop"]["steps"] == 12
    assert "--set sft.audio_steps=0 --seed 5" in record["command"]
    runs = tmp_path / "runs"
    weights = f"sft={{kind: weights, network: {saved}, dtype: float32}}"
    answer = call("retrain", "--config", TINY, "--runs", runs, "--set", weights, "--json")
    assert answer.code in (0, 3), answer.err
    run_id = answer.document["run_id"]
    assert (runs / run_id / "report.html").exists()
    (network,) = (runs / "networks").glob("*/network.safetensors")
    rounded = {name: tensor.float() for name, tensor in load_file(saved).items()}
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in load_file(network).items())
    shown = call("runs", "show", run_id, "--runs", runs, "--json").document
    assert {stage["state"] for stage in shown["stages"]} == {"done"}
    assert shown["lineage"]["models"]["sft"] == [str(saved)]


def test_a_configuration_that_trains_no_network_is_refused(call, tmp_path: Path) -> None:
    weights = "sft={kind: weights, network: 'shipped:toyworld'}"
    answer = call("train", "sft", "--config", TINY, "--runs", tmp_path, "--set", weights)
    assert answer.code == 2 and "there is no network to train" in answer.err
