"""``avpref runs``: what runs there are, what one of them holds, and going on with it."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from avpref.commands.options import DEFAULT_RUNS, AsJson, Runs, Wait
from avpref.commands.output import print_facts, print_json, print_line, print_table, print_verdict
from avpref.logs import say

app = App(name="runs", help="List runs, look into one, go on with one.")

RunId = Annotated[str, Parameter(help="run id, or an unambiguous beginning of one; the newest run if left out")]


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, json: AsJson = False) -> int:
    """List the runs of a folder, newest first: id, seed, state, pairs, verdict."""
    from avpref.commands.run_state import rows_of

    rows = rows_of(runs)
    print_json({"runs": rows}) if json else print_table(rows, ["run_id", "seed", "state", "pairs", "verdict"])
    if not rows:
        say(f"no runs in {runs}; make one: avpref retrain --runs {runs}")
    return 0


@app.command
def show(run: RunId = "", *, runs: Runs = DEFAULT_RUNS, json: AsJson = False) -> int:
    """Show one run: stages done and missing, rows per table, quarantine with reasons, result, lineage."""
    from avpref.commands import run_state
    from avpref.flows.run_folder import RESULT_FILE, open_run

    folder = open_run(runs, run)
    document = {
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        "state": run_state.state(folder),
        "stages": [vars(stage) for stage in run_state.stages(folder)],
        "tables": run_state.rows_per_table(folder),
        "quarantine": [vars(row) for row in run_state.quarantine(folder)],
        "result": folder.read_json(RESULT_FILE),
        "lineage": run_state.lineage(folder),
    }
    print_json(document) if json else _print_run(document)
    return 0


@app.command
def resume(
    run: RunId = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    json: AsJson = False,
    wait: Wait = False,
    adopt_version: Annotated[
        bool, Parameter(help="go on with a run of another version of avpref: every stage is done again", negative="")
    ] = False,
) -> int:
    """Go on with a run where it stopped; output and exit codes are those of ``avpref retrain``."""
    from avpref.commands.retrain import present
    from avpref.flows.run_folder import adopt_version as adopt
    from avpref.flows.run_folder import open_run

    folder = open_run(runs, run)
    if adopt_version:
        adopt(folder, wait)
    from avpref.flows.retrain import resume as go_on

    return present(go_on(runs, folder.run_id, wait), json)


def _print_run(document: dict[str, Any]) -> None:
    facts = {name: document[name] for name in ("run_id", "run_dir", "state")}
    lineage = document["lineage"]
    print_facts(facts | {name: lineage[name] for name in ("seed", "settings_hash")})
    print_line()
    stages = [
        {"stage": stage["name"], "result": "done" if stage["is_done"] else "missing", "rows": stage["rows"]}
        for stage in document["stages"]
    ]
    print_table(stages, ["stage", "result", "rows"])
    print_line()
    rows = [
        {"table": name, "rows": rows, "version": lineage["tables"][name]} for name, rows in document["tables"].items()
    ]
    print_table(rows, ["table", "rows", "version"])
    if document["quarantine"]:
        print_line()
        print_table(document["quarantine"], ["candidate_id", "stage", "error", "message"])
    if document["result"]:
        print_line()
        print_verdict(document["result"])
    print_line()
    print_facts({f"model {stage}": " ".join(found) or None for stage, found in lineage["models"].items()})
