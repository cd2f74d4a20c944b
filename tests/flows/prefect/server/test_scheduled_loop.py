"""Deploy → scheduled retraining → gate → promotion → rollback on a real server, with nobody touching anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from avpref.cli.doctor import prefect_checks
from avpref.registry import aliases
from avpref.registry.aliases import Action

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
EVERY_S = 60
"""How often a schedule fires. Once a seed's run is finished the later ones find nothing to do."""


def scheduled(runs: Path) -> Callable[[dict[str, Any]], None]:
    """The retraining on a schedule of each seed; nothing else is on a schedule."""

    def change(deployment: dict[str, Any]) -> None:
        deployment.pop("schedules", None)
        if deployment["name"] == "weekly-retrain":
            deployment["parameters"] = {"config_path": TINY, "runs": str(runs), "overrides": ALWAYS}
            deployment["schedules"] = [
                {
                    "interval": EVERY_S,
                    "slug": f"seed-{seed}",
                    "parameters": {"seed": seed},
                }
                for seed in SEEDS
            ]

    return change


def test_nobody_is_needed(make_server: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    broken = list(prefect_checks.scheduler(version("sqlalchemy")))
    assert not broken, f"{broken[0].found}; {broken[0].fix}"
    server = make_server()
    healthy = time.monotonic()
    runs = server.folder / "runs"
    server.deploy(scheduled(runs))
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
    server.until("the end of the rollback", lambda: "rollback" in completed(server))
    done = completed(server)
    assert {run["parameters"]["seed"] for run in done["retrain"]} == set(SEEDS)
    assert all(run["auto_scheduled"] for run in done["retrain"])
    assert {run["parameters"]["run"] for run in done["promote"]} == {first.run_id, second.run_id}


def completed(server: Any) -> dict[str, list[dict[str, Any]]]:
    """Flow runs of deployments that came to a good end, by the name of the flow."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in server.flow_runs():
        if run["deployment_id"] and run["state_name"] == "Completed":
            found.setdefault(server.flow_name(run), []).append(run)
    return found
