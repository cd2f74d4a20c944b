"""``avpref eval``: policy against reference on held-out prompts, same noise."""

from __future__ import annotations

from cyclopts import App

from avpref.cli.options import DEFAULT_RUNS, AsJson, Run, Runs
from avpref.cli.output import print_json, print_verdict
from avpref.errors import PartialResult

app = App(name="eval", help="Compare policy and reference on held-out prompts.")


@app.command
def run(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Make, score and compare the policy's held-out clips. Exit code 5: some were quarantined.

    What the gate makes of it: avpref gate check.
    """
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    from avpref.cli.views.run_state import quarantine
    from avpref.cli.views.stage_runs import run_stage
    from avpref.flows.stages.evaluate import evaluate
    from avpref.storage.documents import VERDICT_FILE

    clips = run_stage(folder, evaluate)
    lost = [vars(row) for row in quarantine(folder) if row.stage.startswith("evaluate")]
    document = {"run_id": folder.run_id, "clips": clips, **folder.documents.read(VERDICT_FILE), "quarantined": lost}
    print_json(document) if json else print_verdict(document)
    return PartialResult.exit_code if lost else 0
