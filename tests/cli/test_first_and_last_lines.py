"""What a newcomer reads: what runs and how long it takes, the result with the next commands, the report in the browser."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
import webbrowser
from pathlib import Path

import pytest

from avpref.cli.actions import open_report
from avpref.cli.views.run_plan import plan_lines
from avpref.config.loading import load_config
from avpref.flows.time_estimate import UnitTimes, estimate_seconds, measure_units, total_seconds
from avpref.storage.run_folder import run_id

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = CONFIGS / "tiny.yaml"


def settings(name: str, *changes: str):
    return load_config(CONFIGS / f"{name}.yaml", changes, environment={}).settings


def test_the_plan_names_every_stage_with_its_numbers(tmp_path):
    toyworld = settings("toyworld", "run.seed=7")
    first, *stages, last = plan_lines(toyworld, tmp_path)
    assert first.startswith("toyworld, seed 7:") and "finished before" not in first
    names = [line.split()[0] for line in stages]
    assert names == ["prompts", "sft", "generate", "score", "pair", "audit", "train", "evaluate", "report"]
    text = "\n".join(stages)
    assert "384 to train on, 384 held out" in text and "shipped:toyworld" in text and "2 Ray actors" in text
    assert f"{toyworld.dpo.loop.steps} steps of {toyworld.dpo.loop.batch_size} pairs in 2 processes" in text
    assert str(tmp_path / run_id(toyworld)) in last


def test_the_plan_of_a_finished_run_says_so(tiny_run):
    first, *_ = plan_lines(tiny_run.settings, tiny_run.runs)
    assert "finished before" in first


@pytest.mark.parametrize("name", ["toyworld-full", "clips", "javisdit", "tiny"])
def test_every_configuration_has_a_plan(name, tmp_path):
    assert len(list(plan_lines(settings(name), tmp_path))) == 11


def test_the_plan_is_there_before_torch_is_imported(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom avpref.cli.opening import load_settings\n"
        "from avpref.cli.views.run_plan import plan_lines\n"
        "print(len(list(plan_lines(load_settings(Path(sys.argv[1]), []), Path('runs')))))\n"
        "print(sorted({'torch', 'prefect', 'ray'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(TINY)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["11", "[]"]


def test_the_estimate_grows_with_every_kind_of_work():
    times = UnitTimes(row_s=1e-3, write_s=0.01, read_s=0.004)
    base = total_seconds(settings("toyworld"), times)
    more = ("prompts.num_prompts=800", "sampling.steps=24", "dpo.loop.steps=700", "executor.num_actors=1")
    assert all(total_seconds(settings("toyworld", change), times) > base * 1.1 for change in more)
    assert total_seconds(settings("toyworld-full"), times) > 1.5 * base
    assert total_seconds(settings("toyworld"), UnitTimes(2e-3, 0.02, 0.008)) > 1.5 * base


def test_the_estimate_is_measured_quickly_and_left_out_for_pretrained_models():
    started = time.monotonic()
    times = measure_units(settings("toyworld"))
    assert times.row_s > 0 and times.write_s > 0 and times.read_s > 0
    assert time.monotonic() - started < 60
    assert estimate_seconds(settings("clips", "scoring.scorers=audiobox", "scoring.preset=tiny")) is None
    assert estimate_seconds(settings("javisdit", "executor={kind: in_process, device: cpu}")) is None


def test_retrain_begins_with_the_plan_and_ends_with_three_commands_that_exist(call, own_runs, own_run):
    answer = call("retrain", "--config", TINY, "--runs", own_runs)
    assert answer.err.startswith("tiny, seed 0:") and "estimated" not in answer.err
    commands = [line.removeprefix("next: ").split("  ")[0] for line in answer.err.splitlines() if "next: " in line]
    assert len(commands) == 3
    for command in commands[1:]:
        words = shlex.split(command)[1:]
        if "promote" not in words:
            assert call(*words).code in (0, 3), command
    assert commands[0].startswith(f"avpref runs open {own_run.run_id}")
    assert [line.split()[0] for line in answer.out.splitlines()[1:5]] == ["dimension", "video", "audio", "sync"]


def test_open_prints_the_path_where_there_is_no_display(call, runs, tiny_run, monkeypatch):
    monkeypatch.setattr(open_report, "has_display", lambda: False)
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail("a browser without a display"))
    answer = call("runs", "open", "--runs", runs)
    assert answer.out.strip() == str(tiny_run.root / "report.html") and "no display" in answer.err


def test_open_shows_the_report_in_the_browser(call, runs, tiny_run, monkeypatch):
    shown: list[str] = []

    def show(url: str) -> bool:
        shown.append(url)
        return True

    monkeypatch.setattr(open_report, "has_display", lambda: True)
    monkeypatch.setattr(webbrowser, "open", show)
    document = call("runs", "open", tiny_run.run_id, "--runs", runs, "--json").document
    assert shown == [(tiny_run.root / "report.html").as_uri()]
    assert document["is_opened"] is True and document["report"] == str(tiny_run.root / "report.html")


def test_open_names_the_command_that_makes_a_missing_report(call, own_runs, own_run):
    (own_run.root / "report.html").unlink()
    answer = call("runs", "open", "--runs", own_runs)
    assert answer.code == 4 and f"avpref runs resume {own_run.run_id} --runs" in answer.err


def test_runs_show_says_what_its_seconds_count(call, runs, tiny_run):
    text = call("runs", "show", "--runs", runs).out
    spent = tiny_run.documents.read("result.json")["spent"]
    line = next(line for line in text.splitlines() if "of them generate and score" in line)
    assert float(line.split()[-1]) == pytest.approx(spent["busy_actor_s_before_pairs"], rel=1e-3)
    assert f"per kept pair ({spent['kept_pairs']} pairs)" in text
