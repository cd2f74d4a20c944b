"""runs show tells at any time what is done, running, missing and why; runs logs shows the events and follows a run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from avpref.cli.views import run_log
from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import CircuitOpen
from avpref.observability.meters import StageMeter
from avpref.observability.run_status import StageDocument, UnitsDocument, publishing, publishing_stage
from avpref.observability.status_documents import RUNNING, pass_file, stage_file
from avpref.storage.event_log import Level
from avpref.storage.run_folder import create

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
HEAVY = ("torch", "prefect", "ray", "pandas", "scipy")


@pytest.fixture
def folder(tmp_path):
    """A run of which nothing is done."""
    return create(tmp_path, load_config(TINY).settings)


def shown(call, folder):
    return call("runs", "show", "--runs", folder.runs, "--json").document


def states(document):
    return {stage["name"]: (stage["state"], stage["why"]) for stage in document["stages"]}


def begin(folder, name, state=RUNNING, error=None):
    StageDocument(stage_file(folder.root, name), name).write(state, error)


def begin_pass(folder, name, done=3):
    meter = StageMeter(name, 10, unit="candidates", num_units=5, num_shards=2)
    meter.finish(done)
    UnitsDocument(pass_file(folder.root, name), name).write(RUNNING, meter.measure())


def test_a_run_that_never_began_waits_for_its_first_stage(call, folder):
    found = states(shown(call, folder))
    assert found["prompts"][0] == "not started"
    assert set(found.values()) == {found["prompts"], ("waiting", "waits for stage prompts")}


def test_while_a_run_goes_on_its_stage_its_owner_and_what_is_left_are_told(call, folder):
    with folder.locked():
        begin(folder, "generate")
        begin_pass(folder, "generate")
        document = shown(call, folder)
        text = call("runs", "show", "--runs", folder.runs).out
    assert document["state"] == "in use" and "process" in document["owner"]
    assert states(document)["generate"] == ("running", "")
    (found,) = document["passes"]
    assert (found["state"], found["done"], found["total"], found["units_total"]) == ("running", 3, 10, 5)
    assert found["eta_s"] > 0 and found["by"].startswith("process ")
    assert "3/10 candidates" in text and "0/5" in text and " left" in text


def test_a_stage_that_began_and_never_ended_was_killed(call, folder):
    begin(folder, "generate")
    begin_pass(folder, "generate")
    document = shown(call, folder)
    state, why = states(document)["generate"]
    assert state == "killed" and "never ended" in why
    assert document["owner"] is None
    (found,) = document["passes"]
    assert (found["state"], found["eta_s"]) == ("killed", None)


def test_a_real_process_killed_in_a_stage_is_seen_as_killed(call, folder):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from avpref.storage.run_folder import open_root\n"
        "from avpref.observability.run_status import publishing, publishing_stage\n"
        "folder = open_root(Path(sys.argv[1]))\n"
        "with folder.locked(), publishing(folder), publishing_stage(folder, 'prompts'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(folder.root)], check=False)
    assert ended.returncode == -9
    assert states(shown(call, folder))["prompts"][0] == "killed"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (CircuitOpen("every unit failed with ValueError: no", "few failures", "correct the cause"), "circuit open"),
        (RuntimeError("network on fire"), "failed"),
    ],
)
def test_a_stage_that_failed_says_with_what(call, folder, error, state):
    with pytest.raises(type(error)), publishing(folder), publishing_stage(folder, "score"):
        raise error
    found, why = states(shown(call, folder))["score"]
    assert found == state
    assert type(error).__name__ in why and ("ValueError: no" in why or "on fire" in why)


def test_a_stage_stopped_by_hand_was_interrupted(call, folder):
    with pytest.raises(KeyboardInterrupt), publishing(folder), publishing_stage(folder, "prompts"):
        raise KeyboardInterrupt
    assert states(shown(call, folder))["prompts"][0] == "interrupted"


def test_what_a_running_stage_gave_up_on_is_told_before_it_ends(call, folder):
    row = QuarantineRow("c1", "score", "MediaError", "no picture", 1)
    with folder.locked():
        begin(folder, "score")
        for _ in range(2):  # a second execution says it again
            folder.events.write("quarantined", Level.WARNING, shard=3, unit="u", **vars(row))
        assert shown(call, folder)["quarantine"] == [vars(row)]


def test_a_finished_run_is_done_and_says_what_it_spent(call, runs, tiny_run):
    document = call("runs", "show", "--runs", runs, "--json").document
    assert {state for state, _ in states(document).values()} == {"done"}
    assert document["spent"] == tiny_run.documents.read("result.json")["spent"]
    assert document["spent"]["kept_pairs"] == tiny_run.tables.num_rows(tables.PAIRS)
    assert document["spent"]["busy_actor_s"] > 0
    made = {each["name"]: each["made"] for each in document["spent"]["stages"]}
    assert made["generate"] == tiny_run.tables.num_rows(tables.CANDIDATES)
    assert made["train"] == tiny_run.settings.dpo.loop.steps


def test_every_pass_of_a_finished_run_did_what_was_planned(call, runs):
    passes = call("runs", "show", "--runs", runs, "--json").document["passes"]
    assert {each["name"] for each in passes} >= {"sft", "generate", "score", "encode", "train", "evaluate"}
    for each in passes:
        assert (each["state"], each["done"], each["units_done"]) == ("done", each["total"], each["units_total"])
        assert 0 < each["busy_share"] <= 1.01


@pytest.mark.parametrize("command", ["runs show", "runs logs", "runs list", "pairs show", "candidates list"])
def test_looking_loads_neither_networks_nor_prefect_nor_pandas(tiny_run, command):
    code = (
        "import sys\nfrom avpref.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        f"except SystemExit as ended: assert not ended.code; sys.stderr.write(str([n for n in {HEAVY} if n in sys.modules]))"
    )
    arguments = [*command.split(), "--runs", str(tiny_run.root.parent)]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert found.stderr.endswith("[]")


def test_logs_are_one_document_in_order(call, runs, tiny_run):
    document = call("runs", "logs", "--runs", runs, "--json").document
    assert document["run_id"] == tiny_run.run_id
    assert [event["seq"] for event in document["events"]] == list(range(1, len(document["events"]) + 1))
    assert {
        "started",
        "stage_started",
        "unit_started",
        "unit_done",
        "units_finished",
        "stage_finished",
        "finished",
    } <= {event["event"] for event in document["events"]}


def test_logs_of_a_stage_are_those_of_its_pools_too(call, folder):
    for stage in ("score", "score-audiobox", "scorer", "generate"):
        folder.events.write("unit_done", stage=stage)
    found = call("runs", "logs", "--runs", folder.runs, "--stage", "score", "--json").document["events"]
    assert [event["stage"] for event in found] == ["score", "score-audiobox"]


def test_logs_of_a_level_leave_out_what_matters_less(call, folder):
    for level in Level:
        folder.events.write("said", level, what=level.word)
    found = call("runs", "logs", "--runs", folder.runs, "--level", "warning", "--json").document["events"]
    assert [event["what"] for event in found] == ["warning", "error"]


def test_an_unknown_level_names_those_that_there_are(call, folder):
    answer = call("runs", "logs", "--runs", folder.runs, "--level", "loud")
    assert answer.code == 2 and "debug, info, warning, error" in answer.err


def test_the_newest_events_are_kept_by_a_limit(call, folder):
    for number in range(5):
        folder.events.write("tick", number=number, text="two words")
    out = call("runs", "logs", "--runs", folder.runs, "--limit", "2").out.splitlines()
    assert [line.split("number=")[1].split()[0] for line in out] == ["3", "4"]
    assert all('text="two words"' in line for line in out)


def test_following_goes_on_until_nobody_owns_the_run(folder, monkeypatch):
    """The owner writes on after the first look, then ends; everything is seen, once, and the command ends."""
    folder.events.write("before")
    looked, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(run_log, "POLL_EVERY_S", 0.01)

    def own() -> None:
        with folder.locked():
            ended.set()
            assert looked.wait(30)
            for number in range(3):
                folder.events.write("later", number=number)

    owner = threading.Thread(target=own)
    owner.start()
    assert ended.wait(30)
    seen = []
    for event in run_log.events(folder.root, follow=True):
        seen.append((event["event"], event.get("number")))
        looked.set()
    owner.join()
    assert seen == [("before", None), ("later", 0), ("later", 1), ("later", 2)]


def test_followed_json_is_an_object_a_line(call, folder):
    folder.events.write("tick", number=1)
    out = call("runs", "logs", "--runs", folder.runs, "--follow", "--json").out
    assert [json.loads(line)["number"] for line in out.splitlines()] == [1]
