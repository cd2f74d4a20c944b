"""``avpref gate``: may the trained adapter replace the reference?"""

from __future__ import annotations

from typing import Any

from cyclopts import App

from avpref.commands.options import DEFAULT_RUNS, AsJson, Overrides, Run, Runs
from avpref.commands.output import print_json, print_line, print_table
from avpref.errors import GateRefused

app = App(name="gate", help="Decide whether a run's adapter may be promoted.")


@app.command
def check(*, runs: Runs = DEFAULT_RUNS, run: Run = "", set_: Overrides = None, json: AsJson = False) -> int:
    """Take the gate's decision again from the stored evaluation; nothing is recorded. Exit code 3: refused.

    ``--set evaluation.gate.KEY=VALUE`` asks what other bounds would say.
    """
    from avpref.commands.gating import decide
    from avpref.flows.run_folder import open_run

    document = decide(open_run(runs, run), list(set_ or []))
    print_json(document) if json else _print(document)
    return 0 if document["verdict"] == "promote" else GateRefused.exit_code


def _print(document: dict[str, Any]) -> None:
    print_table(document["rules"], ["rule", "dimension", "value", "bound", "passed"])
    print_line()
    print_line(f"gate: {document['verdict']}")
    for reason in document["reasons"]:
        print_line(f"  {reason}")
