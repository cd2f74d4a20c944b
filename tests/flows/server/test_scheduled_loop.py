"""Deploy → scheduled retraining → gate → promotion → rollback on a real server, with nobody touching anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from avpref.flows import aliases
from avpref.flows.aliases import Action

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TINY = "configs/tiny.yaml"
ALWAYS = [
    "evaluation.gate.min_audio_delta_sd=-1000",
    "evaluation.gate.min_av_ci_low_sd=-1000",
    "evaluation.gate.min_video_ci_low_sd=-1000",
    "evaluation.gate.max_displacement=1000",
]
"""Bounds that a toy run meets: what is shown here is the way, not the network."""
SEEDS = (1, 2)
SOON_S = 20.0


def scheduled(runs: Path, start: datetime) -> Callable[[dict[str, Any]], None]:
    """The retraining on a schedule of each seed, from ``start`` on; nothing else is on a schedule."""

    def change(deployment: dict[str, Any]) -> None:
        deployment.pop("schedules", None)
        if deployment["name"] == "weekly-retrain":
            deployment["parameters"] = {"config_path": TINY, "runs": str(runs), "overrides": ALWAYS}
            deployment["schedules"] = [
                {
                    "interval": 86400,
                    "anchor_date": start.isoformat(),
                    "slug": f"seed-{seed}",
                    "parameters": {"seed": seed},
                }
                for seed in SEEDS
            ]

    return change


def test_nobody_is_needed(make_server: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    server = make_server()
    healthy = time.monotonic()
    runs = server.folder / "runs"
    server.deploy(scheduled(runs, datetime.now(UTC) + timedelta(seconds=SOON_S)))
    server.worker()

    def promotions() -> list[aliases.AliasMove]:
        return [move for move in aliases.history(runs, "serving") if move.action is Action.PROMOTE]

    server.until("a promotion of each seed", lambda: len(promotions()) == len(SEEDS))
    first, second = promotions()
    assert {first.run_id.split("-")[1], second.run_id.split("-")[1]} == {f"s{seed}" for seed in SEEDS}
    regression = {  # what a monitoring system sends
        "id": str(uuid4()),
        "event": "avpref.serving.regressed",
        "resource": {"prefect.resource.id": "avpref.alias.serving"},
        "payload": {"runs": str(runs), "alias": "serving", "reason": "complaints"},
        "occurred": datetime.now(UTC).isoformat(),
    }
    server.ask("/events", [regression])
    server.until("the rollback", lambda: aliases.history(runs, "serving")[-1].action is Action.ROLLBACK)
    took_s = time.monotonic() - healthy
    with capsys.disabled():
        print(f"\ndeploy, two scheduled retrainings, two promotions, rollback: {took_s:.0f} s after the server was up")
    last = aliases.history(runs, "serving")[-1]
    assert (last.adapter, last.reason) == (first.adapter, "complaints")
    flows = {server.flow_name(run): run for run in server.flow_runs() if run["deployment_id"]}
    for name in ("retrain", "promote", "rollback"):
        found = server.until(f"the end of {name}", lambda name=name: ended(server, flows[name]["id"]))
        assert found["state_name"] == "Completed", server.logs()
    retrainings = [run for run in server.flow_runs() if run["auto_scheduled"] and run["end_time"]]
    assert {run["parameters"]["seed"] for run in retrainings} == set(SEEDS)


def ended(server: Any, run: str) -> dict[str, Any] | None:
    found: dict[str, Any] = server.flow_run(run)
    return found if found["end_time"] else None
