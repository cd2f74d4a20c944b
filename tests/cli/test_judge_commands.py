"""Judges and prompt-blind rewards in the result, the report and the output of commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from avpref.config.loading import config_to_yaml, load_config
from avpref.flows.retrain import run_loop
from avpref.storage.run_folder import RunFolder, open_root

Call = Callable[..., Any]
CONFIGS = Path(__file__).parents[2] / "configs"
BLIND = "scoring.metrics=[visual_quality, audio_quality, audio_video, desync]"


def test_selectors_and_judges_stand_side_by_side(tiny_copy: Callable[..., RunFolder], call: Call) -> None:
    copy = tiny_copy("evaluate")
    overrides = ["evaluation.judges=signal", "evaluation.judge_metrics=[signal/visual_quality, signal/motion_quality]"]
    settings = load_config(copy.root / "config.yaml", overrides, environment={}).settings
    (copy.root / "config.yaml").write_text(config_to_yaml(settings))
    folder = open_root(copy.root)
    result = run_loop(folder).document()
    names = [metric["name"] for metric in result["metrics"] if metric["role"] == "judge"]
    assert names == ["signal/visual_quality", "signal/motion_quality"]
    page = (folder.root / "report.html").read_text(encoding="utf-8")
    assert "2 of judges, which took no part in it" in page and '<th scope="row">signal/visual_quality</th>' in page
    assert "judge signal" in page and "Judge not worse: upper end of the interval (signal/motion_quality)" in page
    shown = call("runs", "show", folder.run_id, "--runs", folder.runs).out
    assert any(line.split()[:2] == ["judge", "signal/visual_quality"] for line in shown.splitlines())
    assert any(line.split()[:2] == ["selector", "desync"] for line in shown.splitlines())
    checked = call("gate", "check", "--run", folder.run_id, "--runs", folder.runs, "--json").document
    assert [metric["role"] for metric in checked["metrics"]].count("judge") == 2


def test_a_report_without_judges_says_so(tiny_run: RunFolder) -> None:
    page = (tiny_run.root / "report.html").read_text(encoding="utf-8")
    assert "No judge is configured (evaluation.judges)" in page and "Prompt-blind rewards" not in page


def test_prompt_blind_rewards_are_a_warning_an_error_or_nothing(call: Call) -> None:
    plain = ("config", "validate", "--config", CONFIGS / "toyworld.yaml", "--json")
    warned = call(*plain, "--set", BLIND)
    (warning,) = warned.document["warnings"]
    assert warned.code == 0 and warning.startswith("no metric looks at the prompt") and warning in warned.err
    refused = call(*plain, "--set", BLIND, "--set", "audit.prompt_blind=refuse")
    assert refused.code == 2 and "no metric looks at the prompt" in refused.err
    assert call(*plain, "--set", BLIND, "--set", "audit.prompt_blind=off").document["warnings"] == []
    assert call(*plain).document["warnings"] == []


def test_pairs_select_warns_and_refuses_to_select(tiny_run: RunFolder, call: Call) -> None:
    select = ("pairs", "select", "--run", tiny_run.run_id, "--runs", tiny_run.runs, "--json", "--set", BLIND)
    warned = call(*select)
    assert any(warning.startswith("no metric looks at the prompt") for warning in warned.document["warnings"])
    assert "prompt-blind rewards: no metric looks at the prompt" in warned.err
    assert call(*select, "--set", "audit.prompt_blind=refuse").code == 2


def test_a_run_with_prompt_blind_rewards_is_refused_before_its_first_stage(tmp_path: Path, call: Call) -> None:
    retrain = ("retrain", "--config", CONFIGS / "tiny.yaml", "--runs", tmp_path, "--set", BLIND)
    refused = call(*retrain, "--set", "audit.prompt_blind=refuse")
    assert refused.code == 2 and "audit.prompt_blind=warn" in refused.err
    assert not list(tmp_path.glob("*/tables/*"))
    estimated = call(*retrain, "--dry-run", "--json")
    assert estimated.code == 0 and "prompt-blind rewards" in estimated.err
