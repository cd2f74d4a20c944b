"""``avpref train``: AV-DPO on the pairs of a run."""

from __future__ import annotations

from typing import Any

from cyclopts import App

from avpref.cli.options import DEFAULT_RUNS, AsJson, Run, Runs
from avpref.cli.output import print_facts, print_json, print_line, print_table

app = App(name="train", help="Train the adapter of a run.")


@app.command
def run(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Train the run's adapter, from the newest checkpoint on; a trained run is not trained again."""
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    from avpref.cli.views.stage_runs import run_stage
    from avpref.flows.run import Run as OpenedRun
    from avpref.flows.stages.train import train

    steps = run_stage(folder, train)
    opened = OpenedRun.of(folder)
    summary, policy = opened.training_summary, opened.policy
    assert policy.adapter is not None
    document = {
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
    print_json(document) if json else _print(document)
    return 0


def _print(document: dict[str, Any]) -> None:
    print_facts({name: value for name, value in document.items() if not isinstance(value, dict)})
    print_line()
    measured = ("displacement", "drift", "implicit_accuracy")
    print_table([{"mean over the last quarter": name, **document[name]} for name in measured],
                ["mean over the last quarter", "video", "audio"])  # fmt: skip
