"""Automations that fire: runs without a sign of life crash, and refused gates, failed runs and losses are notified."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.run_events import QUARANTINE_EXCEEDED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TINY = "configs/tiny.yaml"
LONG = ["prompts.num_prompts=400", "prompts.num_sft_clips=400"]
HEARTBEAT_S, ZOMBIE_AFTER_S = 30, 45
FREQUENTLY = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}


@pytest.fixture(scope="module")
def inbox() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A webhook: its address, and what was posted to it."""
    found: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as hook:
        thread = threading.Thread(target=hook.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{hook.server_port}/", found
        hook.shutdown()
        thread.join()


def frequent(deployment: dict[str, Any]) -> None:
    deployment["work_pool"]["job_variables"]["env"] |= FREQUENTLY


@pytest.fixture(scope="module")
def server(make_server: Callable[..., Any], inbox: tuple[str, list[dict[str, str]]]) -> Any:
    server = make_server()
    server.deploy(frequent)
    command = ("automations", "apply", "--zombie-after-s", str(ZOMBIE_AFTER_S), "--webhook", inbox[0], "--json")
    first, second = (json.loads(server.must("avpref", *command))["automations"] for _ in range(2))
    assert {each["action"] for each in first} == {"created"} and {each["action"] for each in second} == {"updated"}
    assert [each["automation_id"] for each in first] == [each["automation_id"] for each in second]
    return server


def told(server: Any, inbox: tuple[str, list[dict[str, str]]], *words: str) -> dict[str, str]:
    """The message that has all the words, when it has arrived."""
    return server.until(
        f"a notification with {words}",
        lambda: next((each for each in inbox[1] if all(word in json.dumps(each) for word in words)), None),
    )


def test_a_refused_gate_is_notified(server: Any, inbox: tuple[str, list[dict[str, str]]]) -> None:
    runs = server.folder / "refused"
    never = ["--set", "evaluation.gate.min_audio_delta_sd=1000"]
    done = server.run("avpref", "retrain", "--config", TINY, "--runs", str(runs), "--json", *never)
    assert done.returncode == 3, done.stderr
    message = told(server, inbox, "the gate refused", json.loads(done.stdout)["run_id"])
    assert str(runs) in message["body"]


def test_losses_over_the_bound_are_notified(server: Any, inbox: tuple[str, list[dict[str, str]]]) -> None:
    with temporary_settings({PREFECT_API_URL: server.url}), reporting.execution("curate", {}):
        payload = {"lost": 7, "share": 0.5, "bound": 0.01}
        reporting.emit_event(QUARANTINE_EXCEEDED, "lossy-s0", str(server.folder / "lossy-s0"), payload)
    assert "7 candidates" in told(server, inbox, "quarantine", "lossy-s0")["body"]


def test_runs_whose_process_is_killed_crash_with_their_stages(
    server: Any, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    overrides = [part for override in LONG for part in ("--set", override)]
    plain, deployed = server.folder / "killed-plain", server.folder / "killed-deployed"
    worker = server.worker()
    asked = server.run_deployment("retrain/weekly-retrain", config_path=TINY, runs=str(deployed), overrides=LONG)
    command = subprocess.Popen(
        [server.program("avpref"), "retrain", "--config", TINY, "--runs", str(plain), *overrides],
        cwd=server.root,
        env=server.environment | FREQUENTLY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def in_sft() -> Any:
        found = [server.flow_run(asked), *server.flow_runs(runs=str(plain))]
        return found if len(found) == 2 and all("sft" in server.stages(run) for run in found) else None

    runs = server.until("both to be in their second stage", in_sft)
    command.kill()
    command.wait()
    os.killpg(worker.pid, signal.SIGKILL)  # first, or it would report the death of its child
    os.kill(owner(deployed), signal.SIGKILL)
    for run in runs:
        server.until("a crash", lambda run=run: server.flow_run(run["id"])["state_name"] == "Crashed")
        server.until("a crash of its stage", lambda run=run: server.stages(run)["sft"] == "Crashed")
        told(server, inbox, "failed", server.flow_run(run["id"])["name"])


def test_a_run_that_fails_is_notified(server: Any, inbox: tuple[str, list[dict[str, str]]]) -> None:
    done = server.run(
        "avpref", "retrain", "--config", TINY, "--runs", str(server.folder / "failed"), "--set", IMPOSSIBLE
    )
    assert done.returncode not in (0, 3), done.stdout
    (run,) = server.flow_runs(runs=str(server.folder / "failed"))
    assert run["state_name"] == "Failed"
    told(server, inbox, "failed", run["name"])


IMPOSSIBLE = "pairs.min_margin=1000000"
"""No prompt gives a pair."""


def owner(runs: Path) -> int:
    """The process that owns the one run in a folder, as its lock file says."""
    (lock,) = runs.glob("*/lock")
    words = lock.read_text().split()
    return int(words[words.index("process") + 1])
