"""The work of ``avpref train run``."""

from __future__ import annotations

from typing import Any

from avpref.cli.actions.stage_runs import run_stage
from avpref.flows.run import Run
from avpref.flows.stages.train import train
from avpref.storage.run_folder import RunFolder


def train_run(folder: RunFolder) -> dict[str, Any]:
    """Run the stage ``train``; returns losses, alarms and the adapter's path and hash."""
    steps = run_stage(folder, train)
    run = Run.of(folder)
    summary, policy = run.training_summary, run.policy
    assert policy.adapter is not None
    return {
        "run_id": folder.run_id,
        "stage": "train",
        "steps": steps,
        "loss": summary.loss,
        "displacement": vars(summary.displacement),
        "drift": vars(summary.drift),
        "implicit_accuracy": vars(summary.implicit_accuracy),
        "alarms": summary.alarms,
        "adapter": str(policy.adapter.relative_to(folder.root)),
        "policy_hash": policy.hash,
    }
