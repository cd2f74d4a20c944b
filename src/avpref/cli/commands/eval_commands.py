"""``avpref eval``: policy against reference on held-out prompts, with the same noise."""

from __future__ import annotations

from cyclopts import App

from avpref.cli.opening import open_run
from avpref.cli.options import DEFAULT_RUNS, AsJson, Run, Runs
from avpref.cli.output import print_json, print_verdict
from avpref.errors import PartialResult

app = App(name="eval")


@app.command
def run(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Sample, score and compare the policy's held-out clips. Exit code 5: some were quarantined.

    To apply the gate to the result: avpref gate check.
    """
    folder = open_run(runs, run)
    from avpref.cli.actions import evaluate_policy

    document = evaluate_policy.evaluate_run(folder)
    print_json(document) if json else print_verdict(document)
    return PartialResult.exit_code if document["quarantined"] else 0
