"""gate check, config show and validate."""

from __future__ import annotations

from pathlib import Path

import pytest

from avpref.config.loading import flatten, load_config
from avpref.config.section import EVERY_KEY
from avpref.datasets import tables

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "tiny.yaml")
TINNY = str(CONFIGS / "tinny.yaml")

EASY = ["min_audio_delta_sd=-1e9", "min_av_ci_low_sd=-1e9", "min_video_ci_low_sd=-1e9", "max_displacement=1e9"]
YES = [part for bound in EASY for part in ("--set", f"evaluation.gate.{bound}")]
NO = ["--set", "evaluation.gate.min_audio_delta_sd=1e9"]


def test_the_decision_is_the_one_that_was_made(call, runs, tiny_run):
    stored = tiny_run.documents.read("evaluation.json")
    answer = call("gate", "check", "--runs", runs, "--json")
    document = answer.document
    assert document["verdict"] == stored["gate"]["verdict"]
    assert document["reasons"] == stored["gate"]["reasons"]
    assert document["rules"] == stored["gate"]["rules"]
    assert document["evaluation"] == stored["evaluation"]
    assert answer.code == (0 if document["verdict"] == "promote" else 3)


def test_other_bounds_give_another_verdict_and_record_nothing(call, own_runs, own_run):
    before = {path: path.read_bytes() for path in own_run.root.glob("tables/gate_decisions/*")}
    promoted, refused = (call("gate", "check", "--runs", own_runs, *bounds, "--json") for bounds in (YES, NO))
    assert (promoted.code, promoted.document["verdict"], promoted.document["reasons"]) == (0, "promote", [])
    assert (refused.code, refused.document["verdict"]) == (3, "refuse")
    assert any("audio" in reason for reason in refused.document["reasons"])
    assert {path: path.read_bytes() for path in own_run.root.glob("tables/gate_decisions/*")} == before
    assert not list(own_run.root.glob("promoted/*")) or own_run.documents.read("evaluation.json")["gate"]["verdict"]


def test_a_refusal_reads_well(call, runs):
    answer = call("gate", "check", "--runs", runs, *NO)
    assert answer.code == 3
    assert "gate: refuse" in answer.out and "audio delta" in answer.out


def test_an_evaluation_of_other_pairs_is_stale(call, own_runs, own_run):
    rows = own_run.tables.read(tables.NORMS).to_pylist()
    other = [{**row, "norm_id": "n0"} for row in rows]
    own_run.tables.seal(
        tables.NORMS, "other", tables.conform(tables.NORMS, type(own_run.tables.read(tables.NORMS)).from_pylist(other))
    )
    answer = call("gate", "check", "--runs", own_runs)
    assert answer.code == 4
    assert "avpref eval run" in answer.err


def test_a_run_without_an_evaluation_is_missing_input(call, tmp_path):
    from avpref.storage.run_folder import create

    create(tmp_path, load_config(TINY).settings)
    answer = call("gate", "check", "--runs", tmp_path)
    assert answer.code == 4
    assert "avpref runs resume" in answer.err


def test_other_overrides_are_refused(call, runs):
    answer = call("gate", "check", "--runs", runs, "--set", "dpo.loop.steps=1")
    assert answer.code == 2
    assert "evaluation.gate.KEY=VALUE" in answer.err


def test_config_show_has_every_leaf_and_its_origin(call, monkeypatch):
    monkeypatch.setenv("AVPREF_DPO__LOOP__STEPS", "33")
    arguments = ["--config", TINY, "--set", "run.name=mine", "--seed", "5"]
    document = call("config", "show", *arguments, "--json").document
    values = {row["key"]: (row["value"], row["origin"]) for row in document["values"]}
    assert values["run.name"] == ("mine", "--set run.name")
    assert values["run.seed"] == (5, "--set run.seed")
    assert values["dpo.loop.steps"] == (33, "environment AVPREF_DPO__LOOP__STEPS")
    assert values["clip.num_frames"][1] == TINY
    assert values["dpo.loss.variant"] == ("sigmoid", "default")
    leaves = dict(flatten(load_config(TINY).settings.model_dump(mode="json", context={EVERY_KEY: True})))
    assert set(values) == set(leaves)


def test_origins_are_shown_when_asked_for(call):
    assert "origin" not in call("config", "show", "--config", TINY).out
    assert TINY in call("config", "show", "--config", TINY, "--origin").out


def test_a_good_configuration_is_valid(call):
    answer = call("config", "validate", "--config", TINY, "--json")
    assert (answer.code, answer.document["valid"]) == (0, True)
    assert answer.document["run_id"].startswith("tiny-s0-")


@pytest.mark.parametrize("command", ["show", "validate"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--config", TINNY], "tiny.yaml"),
        (["--config", TINY, "--set", "dpo.loop.stepz=3"], "did you mean dpo.loop.steps"),
        (["--config", TINY, "--set", "dpo.loop.steps=none"], "dpo.loop.steps"),
        (["--config", TINY, "--set", "steps"], "section.key=value"),
    ],
)
def test_bad_configurations_are_usage_errors(call, command, given, expected):
    answer = call("config", command, *given)
    assert (answer.code, answer.out) == (2, "")
    assert expected in answer.err


def test_validate_finds_metrics_that_no_scorer_gives(call):
    answer = call("config", "validate", "--config", TINY, "--set", "scoring.metrics=[loudness]")
    assert answer.code == 2
    assert "loudness" in answer.err


def test_validate_finds_a_dimension_without_a_metric(call):
    answer = call("config", "validate", "--config", TINY, "--set", "scoring.metrics=[desync]")
    assert answer.code == 2
    assert "dimension" in answer.err
