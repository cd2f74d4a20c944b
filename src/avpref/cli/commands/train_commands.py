"""``avpref train``: AV-DPO on the pairs of a run."""

from __future__ import annotations

from typing import Any

from cyclopts import App

from avpref.cli.opening import open_run
from avpref.cli.options import DEFAULT_RUNS, AsJson, Run, Runs
from avpref.cli.output import print_facts, print_json, print_line, print_table

app = App(name="train")


@app.command
def run(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Train the run's adapter, starting from its newest checkpoint; a finished training is not repeated."""
    folder = open_run(runs, run)
    from avpref.cli.actions import train_adapter

    document = train_adapter.train_run(folder)
    print_json(document) if json else _print(document)
    return 0


def _print(document: dict[str, Any]) -> None:
    print_facts({name: value for name, value in document.items() if not isinstance(value, dict)})
    print_line()
    measured = ("displacement", "drift", "implicit_accuracy")
    print_table([{"mean over the last quarter": name, **document[name]} for name in measured],
                ["mean over the last quarter", "video", "audio"])  # fmt: skip
